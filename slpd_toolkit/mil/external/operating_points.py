"""Sensitivity and specificity at a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy.stats import binomtest

from slpd_toolkit.mil.external.results import AtThreshold
from slpd_toolkit.mil.statistics.bootstrap import Estimate

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray


def at_threshold(where: str, positive: BoolArray, scores: FloatArray, threshold: float) -> AtThreshold:
    """Compute sensitivity and specificity with Wilson's intervals (JASA 1927;22:209).

    Args:
        where: Description of the row.
        positive: (P,) which patients are of the second class.
        scores: (P,) probability of that class.
        threshold: Scores of at least this are positive.
    """
    called = scores >= threshold
    return AtThreshold(where, threshold, _share(called[positive]), _share(~called[~positive]))


def _share(hits: BoolArray) -> Estimate:
    if not len(hits):
        return Estimate(float("nan"), float("nan"), float("nan"))
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return Estimate(float(hits.mean()), float(found.low), float(found.high))
