"""Metrics of predicted numbers, for many weightings of the cases at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray

_ROUNDING = 1e-12

DEFINITIONS = {
    "Spearman correlation": "Correlation of the ranks of predicted and observed values within a test fold. Guessing "
    "gives 0.",
    "R²": "1 minus the squared error of the predictions over that of the mean of the test fold. 1 is perfect, below 0 "
    "is worse than this mean.",
    "Mean absolute error": "In the unit of the manifest. Lower is better.",
}


def weighted_metrics(values: FloatArray, predicted: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
    """Compute all metrics of a regression for R weightings.

    Args:
        values: (N,) observed.
        predicted: (N,)
        weights: (R, N), 0 or more.

    Returns:
        `spearman`, `r2` and `mae`, (R,) each; NaN where they are undefined, as for equal values.
    """
    total = weights.sum(axis=1)
    errors = weights @ (values - predicted) ** 2
    mean = _ratio(weights @ values, total)
    spread = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    spread[spread <= _ROUNDING * total * max(float((values**2).max()), 1e-300)] = 0
    return {
        "spearman": correlation(weighted_ranks(values, weights), weighted_ranks(predicted, weights), weights),
        "r2": 1 - _ratio(errors, spread),
        "mae": _ratio(weights @ np.abs(values - predicted), total),
    }


def weighted_ranks(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the weight below each value plus half that of its ties, (R, N); with weights 1 it is the midrank - 0.5."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.append(True, ranked[1:] != ranked[:-1])
    groups = np.add.reduceat(weights[:, order], np.flatnonzero(starts), axis=1)
    middles = np.cumsum(groups, axis=1) - groups / 2
    ranks = np.empty(weights.shape)
    ranks[:, order] = middles[:, np.cumsum(starts) - 1]
    return ranks


def correlation(first: FloatArray, second: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted Pearson correlation of the rows of two (R, N) arrays, (R,)."""
    total = weights.sum(axis=1, keepdims=True)
    centred = [each - _ratio((weights * each).sum(axis=1, keepdims=True), total) for each in (first, second)]
    product = (weights * centred[0] * centred[1]).sum(axis=1)
    squares = [(weights * each**2).sum(axis=1) for each in centred]
    norm = np.sqrt(squares[0] * squares[1])
    norm[norm <= _ROUNDING * total[:, 0] ** 3] = 0
    return _ratio(product, norm)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    ratio: FloatArray = np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0
    )
    return ratio
