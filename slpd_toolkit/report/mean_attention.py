"""Attention per slide, averaged over folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.results import Result


def mean_attention(result: Result) -> dict[int, FloatArray]:
    """Average the attention of each slide over the folds in which it was tested.

    Returns:
        Row in the cohort -> (n,) weights that sum to 1. Empty for aggregators without attention.
    """
    sums: dict[int, FloatArray] = {}
    for fold in result.folds:
        if fold.attention:
            for row, shares in zip(fold.rows.tolist(), fold.attention, strict=True):
                sums[row] = sums.get(row, 0.0) + np.asarray(shares, np.float64)
    return {row: total / total.sum() for row, total in sums.items()}
