"""Folds that balance several columns of classes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray


def count_cells(columns: StrArray, unit_of_row: IntArray) -> tuple[IntArray, list[tuple[int, str]]]:
    """Count the rows of each unit in each class of each column.

    Args:
        columns: (P, B) cells, empty where unknown.
        unit_of_row: (P,) unit of each row, 0 to U - 1.

    Returns:
        (U, K) counts, and column and class of each of the K.
    """
    units = int(unit_of_row.max()) + 1
    found = [(index, str(name)) for index, column in enumerate(columns.T) for name in np.unique(column) if name != ""]
    counts = [np.bincount(unit_of_row[columns[:, index] == name], minlength=units) for index, name in found]
    return np.stack(counts, axis=1).astype(np.int64), found


def balanced_folds(counts: IntArray, sizes: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    """Assign units to folds so that every class is spread evenly: units of rare classes first.

    Each unit goes to the fold that lacks most of its rarest class, then of all its classes, then of units. (Iterative
    stratification: Sechidis et al., ECML PKDD 2011, with the order fixed in advance.)

    Args:
        counts: (U, K) rows of each unit in each class; see `count_cells`.
        sizes: (U,) rows of each unit.
        folds: Number of folds.
        rng: Random generator of ties.

    Returns:
        Fold of each unit, (U,).
    """
    totals = counts.sum(axis=0)
    has = counts > 0
    rarity = np.where(has, totals, totals.max() + 1).min(axis=1)
    lacking: FloatArray = np.tile(totals / folds, (folds, 1))
    room = np.full(folds, sizes.sum() / folds)
    shuffled = rng.permutation(len(counts))
    fold_of_unit = np.empty(len(counts), dtype=np.int64)
    for unit in shuffled[np.lexsort((-sizes[shuffled], rarity[shuffled]))].tolist():
        mine = np.flatnonzero(has[unit])
        rarest = mine[np.argmin(totals[mine])]
        ties = rng.permutation(folds)
        chosen = ties[np.lexsort((-room[ties], -lacking[np.ix_(ties, mine)].sum(axis=1), -lacking[ties, rarest]))[0]]
        fold_of_unit[unit] = chosen
        lacking[chosen] -= counts[unit]
        room[chosen] -= sizes[unit]
    return fold_of_unit
