"""Sums of weights over lower-ranked cases, for many weightings at once, in O(n log n) instead of over all pairs.

Pair statistics such as the AUC and the concordance index are sums over pairs of cases; sorting replaces the pairs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray

_LEAF = 1024
"""Cases whose pairs are compared directly: for few cases, a matrix product is faster than sorting."""


def weight_below(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the weight below each value plus half of that of its ties, itself included, (R, N).

    With weights 1 it is the midrank - 0.5.

    Args:
        values: (N,)
        weights: (R, N)
    """
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    opens = np.append(True, ranked[1:] != ranked[:-1])
    groups = np.add.reduceat(weights[:, order], np.flatnonzero(opens), axis=1)
    middles = np.cumsum(groups, axis=1) - groups / 2
    found = np.empty(weights.shape)
    found[:, order] = middles[:, np.cumsum(opens) - 1]
    return found


def weight_later(groups: IntArray, weights: FloatArray, wanted: IntArray) -> FloatArray:
    """Return the weight of the cases in later groups, (R, m).

    Args:
        groups: (N,) rising, from 0 without gaps.
        weights: (R, N)
        wanted: (m,) positions of the cases whose sums are wanted.
    """
    up_to = _sums(weights)
    later: FloatArray = up_to[:, -1:] - up_to[:, np.searchsorted(groups, groups[wanted], side="right")]
    return later


def weight_later_and_below(groups: IntArray, values: FloatArray, weights: FloatArray, wanted: IntArray) -> FloatArray:
    """Return the weight of the cases in later groups with a lower value plus half of that of equal ones, (R, m).

    Groups are packed into blocks in their order. Pairs within a block are compared directly. Two different blocks first
    differ in one binary digit of their numbers: for each digit, cases with a 0 are ranked among those with a 1 whose
    blocks agree in the higher digits.

    Args:
        groups: (N,) rising, from 0 without gaps.
        values: (N,)
        weights: (R, N)
        wanted: (m,) rising positions of the cases whose sums are wanted.
    """
    ends = np.cumsum(np.bincount(groups))
    starts = np.append(0, ends[:-1])
    block = (starts // _LEAF + (ends - 1) // _LEAF)[groups]  # a group across a boundary has a block to itself
    found = np.zeros((len(weights), len(wanted)))
    edges = np.append(np.flatnonzero(np.append(True, np.diff(block))), len(block))
    for start, stop in pairwise(edges.tolist()):
        low, high = np.searchsorted(wanted, [start, stop])
        if low < high and groups[start] < groups[stop - 1]:
            some, inside = wanted[low:high, None], slice(start, stop)
            counted = (groups[some] < groups[inside]) * (
                (values[some] > values[inside]) + (values[some] == values[inside]) / 2
            )
            found[:, low:high] = weights[:, inside] @ counted.T
    names, ranks = np.unique(values, return_inverse=True)
    for digit in range(int(block.max(initial=0)).bit_length()):
        upper, branch = (block >> digit) % 2 == 1, (block >> (digit + 1)) * len(names)
        later = np.flatnonzero(upper)
        later = later[np.argsort((branch + ranks)[later], kind="stable")]
        up_to, known = _sums(weights[:, later]), (branch + ranks)[later]
        lower = np.flatnonzero(~upper[wanted])
        mine = wanted[lower]
        below, with_ties = (np.searchsorted(known, (branch + ranks)[mine], side=side) for side in ("left", "right"))
        first = np.searchsorted(known, branch[mine], side="left")
        found[:, lower] += (up_to[:, below] + up_to[:, with_ties]) / 2 - up_to[:, first]
    return found


def _sums(weights: FloatArray) -> FloatArray:
    """Return the sums of the first 0 to N weights, (R, N + 1)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums
