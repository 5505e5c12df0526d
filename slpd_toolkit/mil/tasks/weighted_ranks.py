"""Sums of weights over lower-ranked cases, for many weightings at once, in O(n log n) instead of over all pairs.

Pair statistics such as the AUC and the concordance index are sums over pairs of cases; sorting replaces the pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray

_LEAF = 256
"""Cases whose pairs are compared directly: for few cases, a matrix product is faster than sorting."""


def weight_below(values: FloatArray, weights: FloatArray, within: IntArray | None = None) -> FloatArray:
    """Return the weight of the cases with a lower value plus half of that of its ties, itself included, (R, N).

    With weights 1 and one group it is the midrank - 0.5.

    Args:
        values: (N,)
        weights: (R, N)
        within: (N,) group of each case, 0 or more; only cases of the same group count. None for one group.
    """
    order = np.argsort(values, kind="stable")
    if within is not None:
        order = order[np.argsort(within[order], kind="stable")]
    ranked, group = values[order], np.zeros(len(order), np.int64) if within is None else within[order]
    opens_group = np.append(True, group[1:] != group[:-1])
    opens_run = opens_group | np.append(True, ranked[1:] != ranked[:-1])
    up_to = np.zeros((len(weights), len(order) + 1))
    np.cumsum(weights[:, order], axis=1, out=up_to[:, 1:])
    starts = np.flatnonzero(opens_run)
    middles = (up_to[:, starts] + up_to[:, np.append(starts[1:], len(order))]) / 2
    if within is not None:
        middles -= up_to[:, np.maximum.accumulate(np.where(opens_group, np.arange(len(order)), 0))[starts]]
    found = np.empty(weights.shape)
    found[:, order] = middles[:, np.cumsum(opens_run) - 1]
    return found


def weight_later(groups: IntArray, weights: FloatArray) -> FloatArray:
    """Return the weight of the cases in later groups (N,), 0 or more, for each case and weighting, (R, N)."""
    below = weight_below(groups.astype(np.float64), weights)
    own = weight_below(np.zeros(len(groups)), weights, groups)  # half of the group
    later: FloatArray = weights.sum(axis=1, keepdims=True) - below - own
    return later


def weight_later_and_below(groups: IntArray, values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the weight of the cases in later groups with a lower value plus half of that of equal ones, (R, N).

    Groups are packed into blocks in their order. Pairs within a block are compared directly. Two different blocks first
    differ in one binary digit of their numbers: for each digit, the cases whose blocks agree in the higher digits are
    ranked together, and those with a 1 count for those with a 0.

    Args:
        groups: (N,) 0 or more, without gaps.
        values: (N,)
        weights: (R, N)
    """
    ends = np.cumsum(np.bincount(groups))
    starts = np.append(0, ends[:-1])
    block = (starts // _LEAF + (ends - 1) // _LEAF)[groups]  # a group across a boundary has a block to itself
    found = np.zeros(weights.shape)
    order = np.argsort(block, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        group, value = groups[members], values[members]
        if (group == group[0]).all():
            continue
        counted = (group[:, None] < group) * ((value[:, None] > value) + (value[:, None] == value) / 2)
        found[:, members] = weights[:, members] @ counted.T
    for digit in range(int(block.max(initial=0)).bit_length()):
        upper = (block >> digit) % 2 == 1
        below = weight_below(values, weights * upper, block >> (digit + 1))
        found[:, ~upper] += below[:, ~upper]
    return found
