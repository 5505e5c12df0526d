"""Harrell's concordance index, exact and vectorized; scikit-learn does not provide it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray

_BLOCK = 512


def concordance_index(times: FloatArray, events: BoolArray, risks: FloatArray) -> float:
    """Compute Harrell's concordance index: the fraction of comparable pairs that the risks order correctly.

    A pair is comparable if the shorter time ends with the event, or if the times are equal and only one ends with the
    event (the censored case survives longer). Pairs with equal risks count half.
    (Harrell et al., JAMA 1982;247:2543.)

    Args:
        times: (N,) follow-up times.
        events: (N,) True if the event was observed, False if the time is censored.
        risks: (N,) higher means an earlier event.

    Returns:
        0 to 1; NaN without a comparable pair.
    """
    return float(weighted_concordance(times, events, risks, np.ones((1, len(times))))[0])


def weighted_concordance(
    times: FloatArray,
    events: BoolArray,
    risks: FloatArray,
    weights: FloatArray,
    *,
    of_first: FloatArray | None = None,
) -> FloatArray:
    """Compute the concordance index, (R,), for R weightings (R, N) of the cases; a pair has the product of the weights.

    Pairs are compared once for all weightings, in blocks of bounded memory; sums over pairs are matrix products. With
    `of_first` (N,), each pair is also weighted by the value of the case whose event comes first.
    """
    known, right = np.zeros((2, len(weights)))
    seen = np.flatnonzero(events)
    for start in range(0, len(seen), _BLOCK):
        first = seen[start : start + _BLOCK]
        time, risk = times[first, None], risks[first, None]
        comparable = ((time < times) | ((time == times) & ~events)).astype(np.float64)
        if of_first is not None:
            comparable *= of_first[first, None]
        concordant = comparable * ((risk > risks) + (risk == risks) / 2)
        known += np.einsum("rp,rp->r", weights[:, first], weights @ comparable.T)
        right += np.einsum("rp,rp->r", weights[:, first], weights @ concordant.T)
    index: FloatArray = np.divide(right, known, out=np.full(len(known), np.nan), where=known > 0)
    return index
