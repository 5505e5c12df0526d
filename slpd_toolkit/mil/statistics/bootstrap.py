"""Bootstrap over patients of a metric's mean over heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.statistics.division import Division
    from slpd_toolkit.mil.tasks.predictions import FoldOutputs
    from slpd_toolkit.mil.tasks.task import Task

REPLICATES = 2000
_TAIL = 2.5
_BLOCK = 100


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float
    reason: str = ""
    """Sentence on why there is no interval."""

    def document(self) -> dict[str, object]:
        """Return the estimate for metrics.json; the reason only where there is one."""
        return {name: value for name, value in vars(self).items() if name != "reason" or value}


def draw_units(strata: StrArray, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Draw how often each unit is in each replicate, (R, U): with replacement, within each stratum."""
    counts = np.zeros((replicates, len(strata)))
    for name in np.unique(strata):
        members = np.flatnonzero(strata == name)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=replicates)
    return counts


def replicate_means(
    task: Task, folds: Sequence[FoldOutputs], division: Division, seed: int, replicates: int = REPLICATES
) -> dict[str, FloatArray]:
    """Compute each metric's mean over folds for resampled patients, (R,) per metric; the heads stay as they are.

    Args:
        task: Targets.
        folds: Outputs of each head.
        division: Unit of each slide, and strata.
        seed: Random seed.
        replicates: R.
    """
    drawn = draw_units(division.strata, replicates, np.random.default_rng([seed, 7]))
    sums: dict[str, FloatArray] = {}
    counts: dict[str, FloatArray] = {}
    for fold in folds:
        units = division.unit_of_row[fold.rows]
        for start in range(0, replicates, _BLOCK):
            part = slice(start, start + _BLOCK)
            for name, values in task.weighted_metrics(fold.rows, fold.outputs, drawn[part][:, units]).items():
                total = sums.setdefault(name, np.zeros(replicates))
                count = counts.setdefault(name, np.zeros(replicates))
                total[part] += np.nan_to_num(values)
                count[part] += ~np.isnan(values)
    return {
        name: np.divide(total, counts[name], out=np.full(replicates, np.nan), where=counts[name] > 0)
        for name, total in sums.items()
    }


def percentile_interval(value: float, replicates: FloatArray) -> Estimate:
    """Return a value with the 95 % percentile interval of its replicates; NaN replicates are left out."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined) or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, [_TAIL, 100 - _TAIL])
    return Estimate(value, float(low), float(high))


def exact_bound(found: Estimate, units: float) -> Estimate:
    """Widen the interval of a share of exactly 0 or 1, where all replicates are equal, to the exact binomial bound.

    Clopper and Pearson, Biometrika 1934;26:404, for that many units.
    """
    bound = float((_TAIL / 100) ** (1 / units))
    if found.value == found.low == found.high == 1:
        return Estimate(1.0, bound, 1.0)
    if found.value == found.low == found.high == 0:
        return Estimate(0.0, 0.0, 1 - bound)
    return found


def varies(replicates: FloatArray) -> bool:
    """Return whether replicates differ; if all patients are predicted correctly, resampling them shows no variance."""
    return bool(not np.isnan(replicates).all() and np.nanstd(replicates) > 0)


def difference_of(first: Estimate, second: Estimate) -> Estimate:
    """Combine the intervals of two estimates to that of their difference (Zou & Donner, Stat Med 2008;27:1693)."""
    low = math.hypot(first.value - first.low, second.high - second.value)
    high = math.hypot(first.high - first.value, second.value - second.low)
    difference = first.value - second.value
    return Estimate(difference, difference - low, difference + high)


def bootstrap(
    measure: Callable[[FloatArray], FloatArray], strata: StrArray, unit_of_case: IntArray, seed: int
) -> Estimate:
    """Estimate a measure between 0 and 1 with a bootstrap interval over units.

    Args:
        measure: Weights (R, n) of the cases to values, (R,).
        strata: (U,) stratum of each unit.
        unit_of_case: (n,) unit of each case.
        seed: Random seed.
    """
    drawn = draw_units(strata, REPLICATES, np.random.default_rng([seed, 8]))
    value = float(measure(np.ones((1, len(unit_of_case))))[0])
    return exact_bound(percentile_interval(value, measure(drawn[:, unit_of_case])), len(strata))
