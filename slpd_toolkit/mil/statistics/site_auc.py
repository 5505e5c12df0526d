"""AUC of a linear probe within and across sites, and with folds of whole sites."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import MIN_FOLDS
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    difference_of,
    draw_units,
    exact_bound,
    percentile_interval,
    replicate_means,
    varies,
)
from slpd_toolkit.mil.statistics.division import divide_units
from slpd_toolkit.mil.statistics.evaluation import fold_metrics, one_per_patient
from slpd_toolkit.mil.statistics.intervals import effective_cases
from slpd_toolkit.mil.tasks.weighted_metrics import pairs_won

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.mil.tasks.task import Task

FOLDS = 5
_BLOCK_VALUES = 1 << 22
"""Weights that are in memory at once."""
_FEWEST_PATIENTS = 2
"""Of each side of the pairs, for an interval: one patient shows no variance."""
_PROBE, _PROBE_OF_SETS = "probe", "set-probe"


class Probed(NamedTuple):
    """A linear probe in folds of patients or of sites."""

    splits: Sequence[Split]
    folds: Sequence[FoldPrediction]
    """Outputs, one per patient."""


def cohort_with_sites(cohort: Cohort, sites: StrArray) -> Cohort:
    """Return the slides whose site is known.

    Raises:
        UsageError: There is one site or one class, or a patient has two sites.
    """
    known = np.flatnonzero(sites != "")
    names = np.unique(sites[known])
    if len(names) < 2:
        where = f"All slides are from one site, {names[0]}" if len(names) else "No slide has a site"
        raise UsageError(f"{where}: the AUC cannot be compared between sites.")
    if cohort.strata is None:
        raise UsageError("The cohort has one class: the AUC cannot be compared between sites.")
    try:
        return Cohort(cohort.slides[known], cohort.patients[known], cohort.strata[known], sites[known])
    except UsageError as error:
        raise UsageError(f"{error.message} The AUC cannot be compared between sites.") from error


def fold_count(known: Cohort, *, by_site: bool) -> int:
    """Return the number of folds: five, or as many as the smallest class has patients or sites.

    Raises:
        UsageError: There are fewer than three.
    """
    table = known.patient_table()
    assert table.sites is not None
    members = table.sites if by_site else table.ids
    fewest = min(len(np.unique(members[table.strata == name])) for name in np.unique(table.strata))
    if fewest < MIN_FOLDS:
        what = "site" if by_site else "patient with a site"
        raise UsageError(
            f"A class has {count(fewest, what)}, and folds need at least {MIN_FOLDS}: the AUC cannot be compared "
            "between sites."
        )
    return min(FOLDS, fewest)


def probe(
    representation: Representation, task: Task, cohort: Cohort, known: Cohort, folds: int, *, by_site: bool, seed: int
) -> Probed:
    """Predict each patient by a linear probe of slide vectors, in folds of patients or of whole sites.

    Args:
        representation: Bags in the order of the cohort.
        task: Prediction task.
        cohort: All slides.
        known: Those with a site.
        folds: Number of folds.
        by_site: Whether whole sites are split.
        seed: Seed of folds and probe.

    Raises:
        UsageError: A fold has no patients of a class.
    """
    splits = cross_validation(known, folds=folds, seed=seed, by_site=by_site)
    descriptor = representation.descriptor
    of_sets = representation.bags.weights is not None or (descriptor is not None and descriptor.load().is_set)
    predicted = run_folds(
        representation.bags,
        task,
        splits,
        _PROBE_OF_SETS if of_sets else _PROBE,
        descriptor=descriptor,
        training=HeadTraining(),
        seed=seed,
        jobs=1,
    )
    return Probed(splits, one_per_patient(cohort, list(predicted)))


def auc_of_pairs(
    task: Task, cohort: Cohort, folds: Sequence[FoldPrediction], sites: StrArray, seed: int
) -> tuple[Estimate, Estimate]:
    """Compute the AUC over pairs of patients of the same site, and of different sites.

    Only pairs that the same fold tests are compared. With more than two classes it is the mean over classes, each
    against the rest. At 0 and 1 the interval is the exact bound. It is NaN if a class has a single patient in the
    pairs.

    Args:
        task: Prediction task, whose outputs are probabilities of its classes.
        cohort: Slides and patients.
        folds: Outputs, one per patient.
        sites: (N,) site of each slide.
        seed: Seed of the bootstrap.

    Raises:
        UsageError: No site has patients of two classes in the same fold.
    """
    table = cohort.patient_table()
    names = np.array(task.strata_names)
    drawn = draw_units(table.strata, REPLICATES, np.random.default_rng([seed, 12]))
    weights = np.concatenate([np.ones((1, len(table.ids))), drawn])
    site = np.unique(sites, return_inverse=True)[1].astype(np.int64)
    found: dict[bool, list[FloatArray]] = {True: [], False: []}
    classes = [1] if len(names) == 2 else list(range(len(names)))
    for of_class in classes:
        sums = {True: np.zeros((2, len(weights))), False: np.zeros((2, len(weights)))}
        for fold in folds:
            positive, scores = task.strata[fold.rows] == names[of_class], fold.outputs[:, of_class]
            block = max(1, _BLOCK_VALUES // max(len(fold.rows), 1))
            for start in range(0, len(weights), block):
                part = slice(start, start + block)
                of_rows = weights[part, table.of_slide[fold.rows]]
                same = np.stack(pairs_won(positive, scores, of_rows, site[fold.rows]))
                sums[True][:, part] += same
                sums[False][:, part] += np.stack(pairs_won(positive, scores, of_rows)) - same
        for kind, (won, total) in sums.items():
            found[kind].append(np.divide(won, total, out=np.full(len(won), np.nan), where=total > 0))
    of_same, of_different = (_mean_over_classes(found[kind]) for kind in (True, False))
    if np.isnan(of_same[0]) or np.isnan(of_different[0]):
        which = "No site has" if np.isnan(of_same[0]) else "No two sites have"
        raise UsageError(
            f"{which} patients of different classes in the same test fold: the AUC within and across sites cannot be "
            "measured."
        )
    within, across = _patients_of_pairs(task, folds, site, classes)
    return _with_interval(of_same, within, "within sites"), _with_interval(of_different, across, "across sites")


def auc_gap(
    task: Task, cohort: Cohort, random: Probed, by_site: Probed, seed: int
) -> tuple[Estimate, Estimate, Estimate]:
    """Compute the AUC with random folds, with folds of whole sites, and the difference.

    The intervals take the heads as they are; that of the difference is paired by patient. Where replicates do not
    differ, because all patients are ranked correctly, the interval of an AUC is the exact bound, and that of the
    difference combines both.
    """
    found, replicates = [], []
    for probed in (random, by_site):
        value = float(mean_and_sd(fold_metrics(task, probed.folds)["auc"])[0])
        division = divide_units(cohort, probed.splits)
        replicates.append(replicate_means(task, probed.folds, division, seed)["auc"])
        found.append(exact_bound(percentile_interval(value, replicates[-1]), effective_cases(division)))
    one, other = found
    if all(varies(each) for each in (*replicates, replicates[0] - replicates[1])):
        return one, other, percentile_interval(one.value - other.value, replicates[0] - replicates[1])
    return one, other, difference_of(one, other)


def _patients_of_pairs(
    task: Task, folds: Sequence[FoldPrediction], site: IntArray, classes: Sequence[int]
) -> tuple[list[IntArray], list[IntArray]]:
    """Count the patients of each class, and of the others, that are in a pair within sites, and across sites.

    Args:
        task: Prediction task.
        folds: Outputs, one per patient.
        site: (N,) number of the site of each slide.
        classes: Classes whose pairs are counted.

    Returns:
        Two counts for each class that has any pairs, within and across sites.
    """
    found: tuple[list[IntArray], list[IntArray]] = ([], [])
    for of_class in classes:
        within, across = np.zeros((2, 2), np.int64)
        for fold in folds:
            inside = task.strata[fold.rows] == task.strata_names[of_class]
            sides = [np.bincount(site[fold.rows[each]], minlength=int(site.max()) + 1) for each in (inside, ~inside)]
            for index, (own, other) in enumerate((sides, sides[::-1])):
                within[index] += own[other > 0].sum()
                across[index] += own[other.sum() > other].sum()
        for kind, counts in zip(found, (within, across), strict=True):
            if counts.all():
                kind.append(counts)
    return found


def _with_interval(areas: FloatArray, patients: Sequence[IntArray], where: str) -> Estimate:
    """Return an AUC of pairs with its interval; without one if too few patients are in the pairs.

    Args:
        areas: (1 + R,) the AUC, and its replicates.
        patients: For each class, the patients of the class and of others that are in pairs.
        where: Which pairs, for the reason.
    """
    value = float(areas[0])
    counts = min(patients, key=lambda each: int(each.min()))
    if counts.min() < _FEWEST_PATIENTS:
        reason = f"{count(int(counts.min()), 'patient')} of a class can be compared with others {where}"
        return Estimate(value, math.nan, math.nan, f"The AUC {where} has no interval: only {reason}.")
    found = exact_bound(percentile_interval(value, areas[1:]), 4 / (1 / counts).sum())
    if found.low < found.high:
        return found
    reason = "all samples of the patients have the same AUC"
    return Estimate(value, math.nan, math.nan, f"The AUC {where} has no interval: {reason}.")


def _mean_over_classes(areas: Sequence[FloatArray]) -> FloatArray:
    """Average over the classes whose AUC is defined in the whole sample; replicates may lack some of them."""
    defined = [area for area in areas if not np.isnan(area[0])]
    if not defined:
        return areas[0]
    mean: FloatArray = np.stack(defined).mean(axis=0)
    return mean
