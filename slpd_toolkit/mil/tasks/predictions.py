"""Predictions of one model, and their aggregation per slide over all folds that tested it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray


class FoldOutputs(Protocol):
    """Predictions for the test part of one split."""

    @property
    def repeat(self) -> int:
        """Number of the repeat."""

    @property
    def fold(self) -> int:
        """Number of the fold."""

    @property
    def rows(self) -> IntArray:
        """(n,) positions of the test slides in the cohort."""

    @property
    def outputs(self) -> FloatArray:
        """(n, C) class probabilities, (n, 1) risks, or other predictions of the task's objective."""


class ModelOutputs(Protocol):
    """Predictions of one model with one aggregator, and their metrics."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def aggregator(self) -> str:
        """Name of the aggregator."""

    @property
    def folds(self) -> Sequence[FoldOutputs]:
        """One per split."""

    @property
    def scaled_folds(self) -> Sequence[FoldOutputs]:
        """Class probabilities after temperature scaling; empty where there are none."""

    @property
    def values(self) -> Mapping[str, FloatArray]:
        """(J,) values of each metric, one per fold."""


Outputs = TypeVar("Outputs", bound=ModelOutputs)


@dataclass(frozen=True, eq=False)
class SlideOutputs:
    """Mean outputs of the n slides that were tested at least once."""

    rows: IntArray
    """(n,) positions in the cohort, ascending."""
    outputs: FloatArray
    """(n, C) mean class probabilities, or (n, 1) mean risks."""
    folds: tuple[str, ...]
    """Text listing the folds that tested each slide."""


def by_aggregator(results: Sequence[Outputs]) -> dict[str, list[Outputs]]:
    """Group results by aggregator, preserving the order of both."""
    groups: dict[str, list[Outputs]] = {}
    for result in results:
        groups.setdefault(result.aggregator, []).append(result)
    return groups


def mean_outputs(result: ModelOutputs) -> SlideOutputs:
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


def times_tested(result: ModelOutputs) -> IntArray:
    """Return, for each prediction in the order of folds, how many folds tested its slide."""
    stacked = np.concatenate([fold.rows for fold in result.folds])
    counts: IntArray = np.bincount(stacked)[stacked].astype(np.int64)
    return counts


def risk_ranks(result: ModelOutputs) -> tuple[IntArray, FloatArray]:
    """Rank each slide's risk within its test fold (0 lowest, 1 highest), averaged over the folds that tested it.

    Risks of different folds come from different heads and are not comparable; ranks are.

    Returns:
        Rows of the slides, ascending, and their ranks, both (n,).
    """
    rows = np.concatenate([fold.rows for fold in result.folds])
    ranks = np.concatenate([relative_ranks(fold.outputs[:, 0]) for fold in result.folds])
    slides, index, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return slides, np.bincount(index, ranks) / counts


def relative_ranks(values: FloatArray) -> FloatArray:
    """Rank (n,) values from 0 to 1; ties get the mean of their ranks, and 0.5 if all values are equal."""
    if len(values) < 2:
        return np.full(len(values), 0.5)
    below = np.searchsorted(np.sort(values), values, side="left")
    up_to = np.searchsorted(np.sort(values), values, side="right")
    ranks: FloatArray = ((below + up_to - 1) / 2) / (len(values) - 1)
    return ranks
