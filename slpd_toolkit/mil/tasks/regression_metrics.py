"""Metrics of predicted numbers, for many weightings of the cases at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.derivatives import of_mean, of_ratio
from slpd_toolkit.mil.tasks.weighted_ranks import weight_below

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
        "spearman": correlation(weight_below(values, weights), weight_below(predicted, weights), weights),
        "r2": 1 - _ratio(errors, spread),
        "mae": _ratio(weights @ np.abs(values - predicted), total),
    }


def influences(values: FloatArray, predicted: FloatArray) -> dict[str, FloatArray]:
    """Compute the influences of the cases on `weighted_metrics`, (N,) each: exact derivatives at weights of 1."""
    errors, deviations = (values - predicted) ** 2, (values - values.mean()) ** 2
    if deviations.sum() <= _ROUNDING * len(values) * max(float((values**2).max()), 1e-300):
        deviations = np.zeros(len(values))
    return {
        "spearman": _of_spearman(values, predicted),
        "r2": -of_ratio(errors, deviations),  # the mean of the values minimizes the denominator
        "mae": of_mean(np.abs(values - predicted)),
    }


def _of_spearman(values: FloatArray, predicted: FloatArray) -> FloatArray:
    """Derivatives of the correlation of ranks: the weight of a case also raises the ranks above it."""
    ranks = [weight_below(each, np.ones((1, len(each))))[0] for each in (values, predicted)]
    centred = [each - each.mean() for each in ranks]
    squares = [float(each @ each) for each in centred]
    norm = np.sqrt(squares[0] * squares[1])
    if norm <= _ROUNDING * len(values) ** 3:
        return np.full(len(values), np.nan)

    def moved(by: FloatArray, other: FloatArray) -> FloatArray:
        """Sum of `other` over the cases whose rank by a variable rises with the weight of each case; it sums to 0."""
        sums: FloatArray = -weight_below(by, other[None])[0]
        return sums

    of_product = centred[0] * centred[1] + moved(values, centred[1]) + moved(predicted, centred[0])
    of_squares = [each**2 + 2 * moved(by, each) for by, each in zip((values, predicted), centred, strict=True)]
    found = float(centred[0] @ centred[1]) / norm
    relative = of_squares[0] / squares[0] + of_squares[1] / squares[1]
    influences: FloatArray = of_product / norm - found / 2 * relative
    return influences


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
