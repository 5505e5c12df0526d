"""Derivatives of metrics with respect to the weight of each case, at weights of 1.

They are the influences of cases on metrics; those of a patient are the sum over its cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray

_STEP = 1e-4
_CASES_AT_ONCE = 256


def of_ratio(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Return the derivatives of sum(w * numerators) / sum(w * denominators), (N,); NaN unless the latter is above 0."""
    total = denominators.sum()
    if not total > 0:
        return np.full(len(numerators), np.nan)
    derivatives: FloatArray = (numerators - numerators.sum() / total * denominators) / total
    return derivatives


def of_mean(values: FloatArray) -> FloatArray:
    """Return the derivatives of the weighted mean of (N,) values."""
    return of_ratio(values, np.ones(len(values)))


def of_share(chosen: BoolArray, counted: BoolArray) -> FloatArray:
    """Return the derivatives of the share of the counted cases (N,) that are chosen (N,)."""
    return of_ratio((chosen & counted).astype(np.float64), counted.astype(np.float64))


def of_pairs(right: FloatArray, known: FloatArray) -> FloatArray:
    """Return the derivatives of a share of pairs, (N,), where the weight of a pair is the product of its cases'.

    Args:
        right: (N,) weight of the pairs of each case that count for the share; each pair is in the sums of both cases.
        known: (N,) weight of all its pairs.
    """
    return 2 * of_ratio(right, known)


def by_differences(
    metrics: Callable[[FloatArray], Mapping[str, FloatArray]], cases: int, names: frozenset[str]
) -> dict[str, FloatArray]:
    """Return the derivatives of any weighted metrics, by central differences, in O(N^2) or more.

    Args:
        metrics: Maps R weightings (R, N) to R values of each metric, as `Task.weighted_metrics` does.
        cases: Number of cases N.
        names: The metrics to differentiate.

    Returns:
        (N,) for each of `names`, with a relative error of about 1e-8.
    """
    found: dict[str, list[FloatArray]] = {name: [] for name in names}
    for start in range(0, cases, _CASES_AT_ONCE):
        stop = min(start + _CASES_AT_ONCE, cases)
        moved = _STEP * np.eye(stop - start, cases, start)
        above, below = metrics(1 + moved), metrics(1 - moved)
        for name, parts in found.items():
            parts.append((above[name] - below[name]) / (2 * _STEP))
    return {name: np.concatenate(parts) for name, parts in found.items()}
