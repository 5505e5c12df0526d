"""Similarity of two sets of weighted unit vectors: the largest total cosine that a transport plan attains, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags

PAIRS = 4096
"""Pairs of sets that are matched at a time, so that arrays stay in the CPU cache."""
_ROUNDING = 1e-12


def match_sets(
    cosines: NDArray[np.floating], weights: NDArray[np.floating], others: NDArray[np.floating]
) -> tuple[FloatArray, FloatArray]:
    """Match P pairs of weighted sets: optimal transport with cosine as gain.

        s = max over plans T >= 0 of sum_kl T_kl c_kl   subject to   sum_l T_kl = a_k,  sum_k T_kl = b_l

    With K equal weights on both sides this is the best one-to-one matching of SLPD, divided by K. Exact, not entropic:
    successive shortest paths (Ahuja, Magnanti & Orlin, Network Flows, 1993, section 9.7), for all pairs at once.

    Args:
        cosines: (P, K, L) cosines c of P pairs.
        weights: (P, K) weights a of the first sets; they sum to 1. Padding has weight 0.
        others: (P, L) weights b of the second sets.

    Returns:
        The similarities, (P,), at most 1, and the plans, (P, K, L).
    """
    costs = 1 - cosines.astype(np.float64)
    plans = np.zeros(costs.shape)
    supply = weights / weights.sum(axis=1, keepdims=True, dtype=np.float64)
    demand = others / others.sum(axis=1, keepdims=True, dtype=np.float64)
    open_pairs = np.arange(len(costs))
    while len(open_pairs):
        _augment(costs, plans, supply, demand, open_pairs)
        left = np.minimum(supply[open_pairs].max(axis=1), demand[open_pairs].max(axis=1))
        open_pairs = open_pairs[left > _ROUNDING]
    return 1 - (plans * costs).sum(axis=(1, 2)), plans


def _augment(costs: FloatArray, plans: FloatArray, supply: FloatArray, demand: FloatArray, pairs: IntArray) -> None:
    """Send as much as possible along the cheapest path of each pair's residual network; changes all but the costs."""
    cost, plan, row = costs[pairs], plans[pairs], np.arange(len(pairs))
    to_row = np.where(supply[pairs] > _ROUNDING, 0.0, np.inf)
    from_column = np.full(to_row.shape, -1)  # column before each row on its cheapest path; -1 at the start of a path
    back = np.where(plan > _ROUNDING, -cost, np.inf)
    to_column = np.full((len(pairs), costs.shape[2]), np.inf)
    from_row = np.zeros(to_column.shape, np.int64)
    while True:
        through = to_row[:, :, None] + cost
        # Only what is cheaper by more than rounding replaces a predecessor: ties would close a circle of free edges.
        cheapest = through.min(axis=1)
        better = cheapest < to_column - _ROUNDING
        from_row[better] = through.argmin(axis=1)[better]
        to_column[better] = cheapest[better]
        returned = to_column[:, None, :] + back
        cheapest = returned.min(axis=2)
        cheaper = cheapest < to_row - _ROUNDING
        if not cheaper.any():
            break
        from_column[cheaper] = returned.argmin(axis=2)[cheaper]
        to_row[cheaper] = cheapest[cheaper]
    end = np.where(demand[pairs] > _ROUNDING, to_column, np.inf).argmin(axis=1)
    amount, paths, column, alive = demand[pairs, end], [], end, np.ones(len(pairs), bool)
    while alive.any():
        forward = from_row[row, column]
        before = from_column[row, forward]
        starts = alive & (before < 0)
        amount = np.where(starts, np.minimum(amount, supply[pairs, forward]), amount)
        returns = alive & (before >= 0)
        amount = np.where(returns, np.minimum(amount, plan[row, forward, before]), amount)
        paths.append((alive, starts, forward, column, returns, before))
        alive, column = returns, np.where(returns, before, column)
    for alive, starts, forward, column, returns, before in paths:
        np.add.at(plans, (pairs[alive], forward[alive], column[alive]), amount[alive])
        np.subtract.at(plans, (pairs[returns], forward[returns], before[returns]), amount[returns])
        supply[pairs[starts], forward[starts]] -= amount[starts]
    demand[pairs, end] -= amount


def similarities(first: Sets, second: Sets) -> FloatArray:
    """Compute the similarity of each of N sets to each of M, (N, M); see `match_sets`.

    Values are rounded to 9 decimals, so that they do not depend on how many vectors the largest other set has. For one
    vector per set it is the cosine.
    """
    found = np.empty((len(first.vectors), len(second.vectors)))
    flat = found.reshape(-1)
    for start in range(0, len(flat), PAIRS):
        one, other = np.divmod(np.arange(start, min(start + PAIRS, len(flat))), found.shape[1])
        cosines = first.vectors[one].astype(np.float64) @ second.vectors[other].transpose(0, 2, 1)
        part = slice(start, start + PAIRS)
        if cosines.shape[1:] == (1, 1):
            flat[part] = cosines[:, 0, 0]
        else:
            flat[part] = match_sets(cosines, first.weights[one], second.weights[other])[0]
    return np.round(found, 9)


class Sets(NamedTuple):
    """Weighted sets of unit vectors, padded to the largest."""

    vectors: NDArray[np.float32]
    """(S, K, D) unit vectors; 0 for padding."""
    weights: NDArray[np.float32]
    """(S, K) weights; 0 for padding."""


def padded_sets(bags: Bags) -> Sets:
    """Scale the vectors of all slides to unit length, and pad them with zeros to the largest set."""
    mask = np.arange(bags.sizes.max()) < bags.sizes[:, None]
    vectors, weights = np.zeros((*mask.shape, bags.width), np.float32), np.zeros(mask.shape, np.float32)
    lengths = np.linalg.norm(bags.features, axis=1, keepdims=True)
    vectors[mask] = bags.features / np.where(lengths > 0, lengths, 1)
    weights[mask] = np.repeat(1 / bags.sizes, bags.sizes) if bags.weights is None else bags.weights
    return Sets(vectors, weights)
