"""Influence of each patient on a metric (infinitesimal jackknife), and the resulting variance.

The influence of a patient on a metric is the derivative of the metric with respect to the patient's weight. For the
AUC it is DeLong's structural component, and the sum of squares is DeLong's variance; for the mean of an AUC over
cross-validation folds it is the influence curve of LeDell, Petersen & van der Laan (Electron J Stat 2015;9:1583).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray


@dataclass(frozen=True, eq=False)
class MeanVariance:
    """Variance of a mean over folds due to the choice of tested patients."""

    variance: float
    degrees: float
    """Degrees of freedom of the variance (Satterthwaite)."""


def influences_of_units(influences: FloatArray, unit_of_case: IntArray, units: int) -> FloatArray:
    """Sum the influences of the cases of each unit, whose weights change together.

    Args:
        influences: (n,) influence of each case on a metric; see `tasks.task.influences`.
        unit_of_case: (n,) unit of each case.
        units: Number of units U.

    Returns:
        (U,) 0 for units without cases.
    """
    sums: FloatArray = np.bincount(unit_of_case, influences, units).astype(np.float64)
    return sums


def variance_of_mean(influence: FloatArray, tested: BoolArray, strata: StrArray) -> MeanVariance:
    """Compute the variance of a mean over folds from the influences of units.

    Influences of a fold are centered on the mean of the m cases of a class, so their squares are too small by a factor
    of (m - 1) / m; averaged over R folds with different other cases, by (1 - 1/m)^2 + (m - 1) / (m^2 R).

    Args:
        influence: (J, U) influence of each unit on the metric of each fold; 0 if it is not tested.
        tested: (J, U) whether a unit is tested in a fold.
        strata: (U,) class of each unit.

    Returns:
        NaN if no fold tests two units of a class.
    """
    of_mean = influence.sum(axis=0) / len(influence)
    variance, squared_over_degrees = 0.0, 0.0
    for name in np.unique(strata):
        members = strata == name
        times = tested[:, members].sum(axis=0)
        count = int((times > 0).sum())
        if not count:
            continue
        sizes = tested[:, members].sum(axis=1)
        size, repeats = float(sizes[sizes > 0].mean()), float(times[times > 0].mean())
        centres = int((sizes > 0).sum()) if times.max() == 1 else 1
        if sizes.max() < 2 or count <= centres:
            return MeanVariance(float("nan"), float("nan"))
        too_small = (1 - 1 / size) ** 2 + (size - 1) / (size**2 * repeats)
        part = float((of_mean[members] ** 2).sum()) / too_small
        variance += part
        squared_over_degrees += part**2 / (count - centres)
    degrees = variance**2 / squared_over_degrees if squared_over_degrees else float((tested.sum(axis=0) > 0).sum())
    return MeanVariance(variance, degrees)
