"""How sure a number is: spread over folds, and the bootstrap over patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval."""

    low: float
    high: float
    replicates: int
    """How many replicates it rests on: those in which the metric is defined."""


def draw_patients(strata: StrArray, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Bootstrap: draw patients with replacement, each stratum as often as it is large, so that no class dies out.

    Args:
        strata: (P,) stratum of each patient.
        replicates: R, how many samples.
        rng: Source of the draws.

    Returns:
        (R, P) how often each patient is in each sample. Rows sum to P.
    """
    counts = np.zeros((replicates, len(strata)))
    for name in np.unique(strata):
        members = np.flatnonzero(strata == name)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=replicates)
    return counts


def percentile_interval(values: FloatArray, *, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of (R,) replicates; those in which the metric is undefined (NaN) are left out."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Interval(float("nan"), float("nan"), 0)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), len(defined))


def mean_over_folds(
    metrics_of: Callable[[IntArray, FloatArray], dict[str, FloatArray]],
    fold_of_row: IntArray,
    patient_of_row: IntArray,
    patient_weights: FloatArray,
) -> dict[str, FloatArray]:
    """Weighted metrics of each fold, averaged over folds: what a table of means over folds reports, for R weightings.

    Scores of different folds come from different heads and are never ranked against each other.

    Args:
        metrics_of: Rows (n,) and their weights (R, n) to (R,) a metric.
        fold_of_row: (M,) number of the split that predicted this row.
        patient_of_row: (M,) column of `patient_weights`.
        patient_weights: (R, P); all rows of a patient, in whatever fold and repeat, share its weight.

    Returns:
        (R,) for each metric; folds in which it is undefined are left out, NaN where it is in all.
    """
    per_fold: dict[str, list[FloatArray]] = {}
    for fold in np.unique(fold_of_row):
        rows = np.flatnonzero(fold_of_row == fold)
        for name, values in metrics_of(rows, patient_weights[:, patient_of_row[rows]]).items():
            per_fold.setdefault(name, []).append(values)
    return {name: _mean_of_defined(np.stack(values)) for name, values in per_fold.items()}


def _mean_of_defined(values: FloatArray) -> FloatArray:
    defined = ~np.isnan(values)
    sums, counts = np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0)
    mean: FloatArray = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return mean
