"""The robustness index: do nearest slides share the class or the site?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    draw_units,
    exact_bound,
    percentile_interval,
)
from slpd_toolkit.mil.statistics.retrieval import MOST_QUERIES, slide_similarities

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.bags import Bags

NEIGHBORS, LARGEST_SHARE = 10, 0.25
"""The ten nearest slides, or a quarter of the slides if that is fewer."""
_BLOCK = 512


def robustness_index(
    bags: Bags, labels: IntArray, patients: StrArray, sites: StrArray, seed: int
) -> tuple[Estimate, float]:
    """Compute the robustness index of a representation.

    SO / (SO + OS): of the nearest slides of other patients, SO is the number with the same class and another site, OS
    with another class and the same site; others do not count. 1: neighbors share the class whatever the site; 0: they
    share the site whatever the class. The index was introduced by de Jong et al. 2025, "Current pathology foundation
    models are unrobust to medical center differences" (arXiv:2501.18055); this is PathoROB's form (Koemen et al. 2025,
    arXiv:2507.17845). There, cohorts are balanced and k is tuned; here, the cohort is not balanced, k is fixed, and
    the value for random neighbors is returned as chance.

    Each patient counts once, with the mean over its slides. With more than 2 000 slides, the neighbors of 2 000 drawn
    at random count.

    Args:
        bags: Slides; sets of prototypes are compared by matching, others by the cosine of mean vectors.
        labels: (N,) class of each slide.
        patients: (N,) patient of each slide.
        sites: (N,) site of each slide; empty where it is not known.
        seed: Seed of the bootstrap and of the drawn slides.

    Returns:
        The index, and its value for random neighbors.

    Raises:
        UsageError: No class is found at two sites, or no site has two classes, so that class and site cannot be told
            apart.
    """
    known = np.flatnonzero(sites != "")
    _require_mixed(labels[known], sites[known])
    k = max(1, min(NEIGHBORS, int(LARGEST_SHARE * len(known))))
    query = known
    if len(known) > MOST_QUERIES:
        query = np.sort(np.random.default_rng([seed, 3]).choice(known, MOST_QUERIES, replace=False))
    counts = np.concatenate(
        [
            _of_queries(bags, query[start : start + _BLOCK], known, labels, patients, sites, k)
            for start in range(0, len(query), _BLOCK)
        ]
    )
    _, first, patient = np.unique(patients[query], return_index=True, return_inverse=True)
    slides = np.bincount(patient)
    per_patient = np.stack([np.bincount(patient, column) / slides for column in counts.T], axis=1)

    def index(weights: FloatArray) -> FloatArray:
        so, os = (weights @ per_patient[:, :2]).T
        ratio: FloatArray = np.divide(so, so + os, out=np.full(len(weights), np.nan), where=so + os > 0)
        return ratio

    drawn = draw_units(labels[query][first].astype(np.str_), REPLICATES, np.random.default_rng([seed, 11]))
    value = float(index(np.ones((1, len(slides))))[0])
    so, os = per_patient[:, 2:].sum(axis=0)
    return exact_bound(percentile_interval(value, index(drawn)), len(slides)), float(so / (so + os))


def _of_queries(
    bags: Bags, query: IntArray, known: IntArray, labels: IntArray, patients: StrArray, sites: StrArray, k: int
) -> FloatArray:
    """Count SO and OS among the k nearest of each query, and their shares of all candidates, (len(query), 4)."""
    near = slide_similarities(bags, query, known)
    candidate = patients[query][:, None] != patients[known]
    near[~candidate] = -np.inf
    same_class = labels[query][:, None] == labels[known]
    same_site = sites[query][:, None] == sites[known]
    kinds = [candidate & same_class & ~same_site, candidate & ~same_class & same_site]
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :k]
    found = [np.take_along_axis(kind, nearest, axis=1).sum(axis=1) for kind in kinds]
    shares = [kind.sum(axis=1) / np.maximum(candidate.sum(axis=1), 1) for kind in kinds]
    return np.stack([*found, *shares], axis=1).astype(np.float64)


def _require_mixed(labels: IntArray, sites: StrArray) -> None:
    names = np.unique(sites)
    if len(names) < 2:
        where = f"All slides are from one site, {names[0]}" if len(names) else "No slide has a site"
        raise UsageError(f"{where}: the robustness index cannot be measured.")
    if all(len(np.unique(labels[sites == name])) == 1 for name in names):
        raise UsageError(
            "Each site has slides of one class only: class and site cannot be told apart, and the robustness index "
            "cannot be measured."
        )
    if all(len(np.unique(sites[labels == label])) == 1 for label in np.unique(labels)):
        raise UsageError("No class is found at two sites: the robustness index cannot be measured.")
