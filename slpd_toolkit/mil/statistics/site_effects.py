"""How strongly a representation depends on the site: laboratory, stain and scanner.

Each measurement has a 95 % bootstrap interval over patients, in which the trained heads are held fixed.

- `site_accuracy`: how well the site is predicted from slide vectors; see `site_prediction`.
- `robustness_index`: nearest slides of the same class and another site against the reverse; see `site_neighbors`.
- `auc_within`, `auc_across`: AUC of a linear probe, counting only pairs of patients of the same site, or of different
  sites; see `site_auc`. A probe that has learned the site instead of the class ranks only the latter well.
- `auc_random`, `auc_by_site`, and their difference `auc_gap`: AUC of the probe with random folds of patients, and with
  folds of whole sites. The gap is the part of a cross-validated AUC that is not expected at a new site.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.statistics.site_auc import auc_gap, auc_of_pairs, cohort_with_sites, fold_count, probe
from slpd_toolkit.mil.statistics.site_neighbors import robustness_index
from slpd_toolkit.mil.statistics.site_prediction import predict_site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slpd_toolkit.mil.arrays import IntArray, StrArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.statistics.bootstrap import Estimate
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.mil.statistics.site_auc import Probed
    from slpd_toolkit.mil.tasks.task import Task

WORDS = {
    "site_accuracy": "site predicted (balanced accuracy)",
    "robustness_index": "robustness index",
    "auc_within": "AUC within sites",
    "auc_across": "AUC across sites",
    "auc_random": "AUC, random folds",
    "auc_by_site": "AUC, folds by site",
    "auc_gap": "random minus by site",
}
_NO_CLASSES = "needs classes, but the target has none"


@dataclass(frozen=True)
class Measured:
    """One measurement, and its value by chance (NaN: none)."""

    estimate: Estimate
    chance: float = math.nan


@dataclass(frozen=True)
class SiteEffects:
    """Site effects of one representation."""

    model: str
    values: Mapping[str, Measured]
    """By the names of `WORDS`; what cannot be measured is absent."""
    reasons: Mapping[str, str]
    """Why something cannot be measured, as a sentence, by the first name that is absent for it."""


def measure_vectors(
    model: str, bags: Bags, labels: IntArray | None, patients: StrArray, sites: StrArray, seed: int
) -> SiteEffects:
    """Measure what needs no folds of a task: prediction of the site, and neighbors.

    Args:
        model: Name of the representation.
        bags: Slides; several vectors of a slide are averaged.
        labels: (N,) class of each slide; None without classes.
        patients: (N,) patient of each slide.
        sites: (N,) site of each slide; empty where it is not known.
        seed: Seed of folds and bootstrap.
    """

    def neighbors() -> dict[str, Measured]:
        if labels is None:
            raise UsageError(f"The robustness index {_NO_CLASSES}.")
        return {"robustness_index": Measured(*robustness_index(bags, labels, patients, sites, seed))}

    def accuracy() -> dict[str, Measured]:
        return {"site_accuracy": Measured(*predict_site(bags.mean(), patients, sites, seed))}

    return _gather(model, {"site_accuracy": accuracy, "robustness_index": neighbors})


def measure_site_effects(
    representation: Representation, task: Task, cohort: Cohort, sites: StrArray, seed: int
) -> SiteEffects:
    """Measure all site effects of a representation.

    Args:
        representation: Bags in the order of the cohort.
        task: Prediction task.
        cohort: Slides and patients.
        sites: (N,) site of each slide; empty where it is not known.
        seed: Seed of folds, heads and bootstrap.
    """
    bags = representation.bags
    if representation.descriptor is not None:
        bags = representation.descriptor.apply(bags, np.arange(len(bags.slides)), seed)
    labels = np.unique(task.strata, return_inverse=True)[1] if task.strata_are_labels else None
    of_vectors = measure_vectors(representation.name, bags, labels, cohort.patients, sites, seed)

    if "auc" not in task.known_metrics:
        without = {"auc_within": f"The AUC within and across sites {_NO_CLASSES}."}
        return SiteEffects(representation.name, of_vectors.values, {**of_vectors.reasons, **without})

    @cache
    def probed(folds: int, *, by_site: bool = False) -> Probed:
        known = cohort_with_sites(cohort, sites)
        return probe(representation, task, cohort, known, folds, by_site=by_site, seed=seed)

    def pairs() -> dict[str, Measured]:
        random = probed(fold_count(cohort_with_sites(cohort, sites), by_site=False))
        within, across = auc_of_pairs(task, cohort, random.folds, sites, seed)
        return {"auc_within": Measured(within, 0.5), "auc_across": Measured(across, 0.5)}

    def gap() -> dict[str, Measured]:
        folds = fold_count(cohort_with_sites(cohort, sites), by_site=True)
        found = auc_gap(task, cohort, probed(folds), probed(folds, by_site=True), seed)
        return dict(
            zip(("auc_random", "auc_by_site", "auc_gap"), map(Measured, found, (0.5, 0.5, math.nan)), strict=True)
        )

    of_task = _gather(representation.name, {"auc_within": pairs, "auc_gap": gap})
    return SiteEffects(
        representation.name, {**of_vectors.values, **of_task.values}, {**of_vectors.reasons, **of_task.reasons}
    )


def _gather(model: str, measures: Mapping[str, Callable[[], dict[str, Measured]]]) -> SiteEffects:
    values: dict[str, Measured] = {}
    reasons: dict[str, str] = {}
    for name, measure in measures.items():
        try:
            values |= measure()
        except UsageError as error:
            reasons[name] = error.message
    return SiteEffects(model, values, reasons)
