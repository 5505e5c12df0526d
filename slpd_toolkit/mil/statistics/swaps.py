"""Differences between two models after swapping their predictions for random patients or sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.statistics.division import Division
    from slpd_toolkit.mil.tasks.task import Task

_BLOCK_VALUES = 1 << 22
"""Weights that are in memory at once: replicates of large folds are computed in blocks."""


def swapped_differences(
    task: Task,
    division: Division,
    first: Sequence[FoldPrediction],
    second: Sequence[FoldPrediction],
    swaps: BoolArray,
) -> dict[str, FloatArray]:
    """Compute the differences, first minus second and averaged over folds, for each swap and metric, (R,) each.

    Outputs of models may differ in scale and offset, which swaps would mix although they do not affect the order.
    Metrics of order (AUC, concordance) are therefore computed from ranks within the fold, and metrics of predicted
    classes and probabilities from the predictions themselves.

    Args:
        task: Prediction task.
        division: Unit of each slide.
        first: Predictions of one model.
        second: Predictions of the other, on the same rows.
        swaps: (R, U) bool, whether the models swap their predictions of a unit, in all folds.

    Returns:
        Differences over the folds in which the metric is defined; NaN if there are none.
    """
    per_fold: dict[str, list[FloatArray]] = {}
    for one, other in zip(first, second, strict=True):
        block = max(1, _BLOCK_VALUES // max(len(one.rows), 1))
        parts = [
            _of_fold(task, one, other, swaps[start : start + block, division.unit_of_row[one.rows]])
            for start in range(0, len(swaps), block)
        ]
        for name in parts[0]:
            per_fold.setdefault(name, []).append(np.concatenate([part[name] for part in parts]))
    return {name: _mean_of_defined(np.stack(values)) for name, values in per_fold.items()}


def _of_fold(task: Task, one: FoldPrediction, other: FoldPrediction, swapped: BoolArray) -> dict[str, FloatArray]:
    """Return the differences in one fold, (R,) per metric, if the predictions of some cases are swapped, (R, n)."""
    rows = np.concatenate([one.rows, other.rows])
    # A swap is a weighting of the predictions of both models: for each case, one has weight 1 and the other 0.
    as_first = np.hstack([~swapped, swapped]).astype(np.float64)
    as_second = np.hstack([swapped, ~swapped]).astype(np.float64)
    outputs = np.concatenate([one.outputs, other.outputs])
    ranks = np.concatenate([stats.rankdata(each.outputs, axis=0) for each in (one, other)])
    of_ranks, of_outputs = (
        {name: high - low for name, high, low in _both(task, rows, each, as_first, as_second)}
        for each in (ranks, outputs)
    )
    return {name: of_ranks[name] if name in task.rank_metrics else each for name, each in of_outputs.items()}


def _both(
    task: Task, rows: IntArray, outputs: FloatArray, as_first: FloatArray, as_second: FloatArray
) -> list[tuple[str, FloatArray, FloatArray]]:
    high, low = (task.weighted_metrics(rows, outputs, weights) for weights in (as_first, as_second))
    return [(name, high[name], low[name]) for name in high]


def _mean_of_defined(values: FloatArray) -> FloatArray:
    defined = ~np.isnan(values)
    sums, counts = np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0)
    mean: FloatArray = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return mean
