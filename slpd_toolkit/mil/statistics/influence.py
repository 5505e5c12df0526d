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
    from collections.abc import Callable

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray

_STEP = 1e-5
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class MeanVariance:
    """Variance of a mean over folds due to the choice of tested patients."""

    variance: float
    degrees: float
    """Degrees of freedom of the variance (Satterthwaite)."""


def influences(
    metrics_of: Callable[[FloatArray], dict[str, FloatArray]], unit_of_case: IntArray, units: int
) -> dict[str, FloatArray]:
    """Compute the derivative of each metric with respect to the weight of each unit.

    Args:
        metrics_of: Function of weights (R, n) of the n cases that returns (R,) values per metric.
        unit_of_case: (n,) unit of each case; all cases of a unit have the same weight.
        units: Number of units U.

    Returns:
        (U,) per metric: 0 for units without cases, NaN if the metric is undefined.
    """
    present = np.unique(unit_of_case)
    found: dict[str, list[FloatArray]] = {}
    for start in range(0, len(present), _BLOCK):
        block = present[start : start + _BLOCK]
        raised = np.ones((len(block) + 1, len(unit_of_case)))
        raised[1:] += _STEP * (unit_of_case[None, :] == block[:, None])
        for name, values in metrics_of(raised).items():
            found.setdefault(name, []).append((values[1:] - values[0]) / _STEP)
    result = {}
    for name, parts in found.items():
        result[name] = np.zeros(units)
        result[name][present] = np.concatenate(parts)
    return result


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
