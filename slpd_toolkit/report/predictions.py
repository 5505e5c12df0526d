"""What a result says of each slide, over all folds that tested it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.statistics.results import Result


@dataclass(frozen=True, eq=False)
class SlideOutputs:
    """Mean outputs of the n slides that were tested at least once."""

    rows: IntArray
    """(n,) positions in the cohort, rising."""
    outputs: FloatArray
    """(n, C) mean class probabilities, or (n, 1) mean risks."""
    folds: tuple[str, ...]
    """For each slide the folds that tested it, in words."""


def mean_outputs(result: Result) -> SlideOutputs:
    """Average each slide's outputs over the folds that tested it."""
    stacked = np.concatenate([fold.rows for fold in result.folds])
    rows, index, counts = np.unique(stacked, return_inverse=True, return_counts=True)
    sums = np.zeros((len(rows), result.folds[0].outputs.shape[1]))
    np.add.at(sums, index, np.concatenate([fold.outputs for fold in result.folds]))
    names: dict[int, list[str]] = {int(row): [] for row in rows}
    repeated = len({fold.repeat for fold in result.folds}) > 1
    for fold in result.folds:
        name = f"{fold.repeat}.{fold.fold}" if repeated else str(fold.fold)
        for row in fold.rows.tolist():
            names[row].append(name)
    return SlideOutputs(rows, sums / counts[:, None], tuple(", ".join(each) for each in names.values()))


def times_tested(result: Result) -> IntArray:
    """For each prediction, fold after fold, how many folds tested its slide."""
    stacked = np.concatenate([fold.rows for fold in result.folds])
    counts: IntArray = np.bincount(stacked)[stacked].astype(np.int64)
    return counts


def mean_attention(result: Result) -> dict[int, FloatArray]:
    """Average each slide's attention over the folds that tested it: row in the cohort -> (n,) shares that sum to 1.

    Empty for aggregators without attention.
    """
    sums: dict[int, FloatArray] = {}
    for fold in result.folds:
        if fold.attention:
            for row, shares in zip(fold.rows.tolist(), fold.attention, strict=True):
                sums[row] = sums.get(row, 0.0) + np.asarray(shares, np.float64)
    return {row: total / total.sum() for row, total in sums.items()}


def risk_ranks(result: Result) -> tuple[IntArray, FloatArray]:
    """Rank each slide's risk within its test fold (0 lowest, 1 highest), mean over the folds that tested it.

    Risks of different folds come from different heads and are never compared; ranks may be.

    Returns:
        (n,) rows of the slides, rising, and (n,) their ranks.
    """
    rows = np.concatenate([fold.rows for fold in result.folds])
    ranks = np.concatenate([relative_ranks(fold.outputs[:, 0]) for fold in result.folds])
    slides, index, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return slides, np.bincount(index, ranks) / counts


def relative_ranks(values: FloatArray) -> FloatArray:
    """Rank (n,) values from 0 to 1, equal ones in the middle of their places; 0.5 where all are equal."""
    if len(values) < 2:
        return np.full(len(values), 0.5)
    below = np.searchsorted(np.sort(values), values, side="left")
    up_to = np.searchsorted(np.sort(values), values, side="right")
    ranks: FloatArray = ((below + up_to - 1) / 2) / (len(values) - 1)
    return ranks
