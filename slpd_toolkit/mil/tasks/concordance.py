"""Harrell's concordance index, exact and without a loop over pairs; scikit-learn does not provide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.weighted_ranks import weight_later, weight_later_and_below

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray


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

    With `of_first` (N,), each pair is also weighted by the value of the case whose event comes first. O(R N log N).
    """
    order, groups = _groups(times, events)
    weights, risks, seen = weights[:, order], risks[order], np.flatnonzero(events[order])
    first = weights[:, seen] if of_first is None else weights[:, seen] * of_first[order][seen]
    known = np.einsum("re,re->r", first, weight_later(groups, weights, seen))
    right = np.einsum("re,re->r", first, weight_later_and_below(groups, risks, weights, seen))
    index: FloatArray = np.divide(right, known, out=np.full(len(known), np.nan), where=known > 0)
    return index


@dataclass(frozen=True, eq=False)
class PairsOfCases:
    """Comparable pairs of each case with all others, with the weights of `of_first`."""

    known: FloatArray
    """(N,) total weight of the pairs of each case; each pair counts for both of its cases."""
    right: FloatArray
    """(N,) that of the pairs in the right order, plus half of that of pairs with equal risks."""


def pairs_of_cases(
    times: FloatArray, events: BoolArray, risks: FloatArray, *, of_first: FloatArray | None = None
) -> PairsOfCases:
    """Count the comparable pairs of each case; see `weighted_concordance`. O(N log N)."""
    order, groups = _groups(times, events)
    risks, first = risks[order], np.where(events, 1.0 if of_first is None else of_first, 0.0)[None, order]
    every, ones = np.arange(len(times)), np.ones((1, len(times)))
    backwards = groups.max(initial=0) - groups[::-1]
    known = first * weight_later(groups, ones, every) + weight_later(backwards, first[:, ::-1], every)[:, ::-1]
    right = first * weight_later_and_below(groups, risks, ones, every)
    right += weight_later_and_below(backwards, -risks[::-1], first[:, ::-1], every)[:, ::-1]
    found = np.empty((2, len(times)))
    found[:, order] = np.concatenate([known, right])
    return PairsOfCases(*found)


def _groups(times: FloatArray, events: BoolArray) -> tuple[IntArray, IntArray]:
    """Sort the cases so that an event is comparable with all cases of later groups, and with no others.

    Returns:
        (N,) the order of the cases, and the group of each in this order.
    """
    order = np.lexsort((~events, times))
    time, event = times[order], events[order]
    opens = (time[1:] != time[:-1]) | (event[1:] != event[:-1])
    return order, np.append(0, np.cumsum(opens)).astype(np.int64)[: len(order)]
