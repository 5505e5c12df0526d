"""Scores as CSV, from any tool: one row per square, with its slide."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.core.csv_tables import read_number_table
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.core.text import agree, count
from slpd_toolkit.report.scores import FURTHEST_L0, SlideScores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

COLUMNS = ("slide_id", "x_l0", "y_l0", "size_l0", "score")
_NUMBERS = COLUMNS[1:]


def read_score_csv(path: Path) -> dict[str, Callable[[], SlideScores]]:
    """Read a CSV with the columns slide_id, x_l0, y_l0, size_l0 (level-0 px) and score; others are ignored.

    Returns:
        For each slide, in file order, a function that returns its squares, or raises SlideError if a cell is not a
        number, so that one bad slide does not affect the others.

    Raises:
        UsageError: The file is not a CSV, lacks a column, or has no rows.
    """
    table = read_number_table(path, ("slide_id",), COLUMNS, hint=_NEEDED)
    if table.empty:
        raise UsageError(f"{path} has no rows.", hint=_NEEDED)
    rows_of = table.groupby("slide_id").indices
    return {
        slide_id: partial(_read_slide, path, slide_id, table, np.asarray(rows_of[slide_id]))
        for slide_id in table["slide_id"].unique().tolist()
    }


_NEEDED = f"Columns: {', '.join(COLUMNS)}; lengths in level-0 px."


def _read_slide(path: Path, slide_id: str, table: pd.DataFrame, index: npt.NDArray[np.intp]) -> SlideScores:
    cells = table.loc[index, list(_NUMBERS)]
    numbers = cells.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    sized = (numbers[:, 2] >= 1) & (np.abs(numbers[:, :3]) <= FURTHEST_L0).all(axis=1)
    fine = np.isfinite(numbers).all(axis=1) & sized
    if not fine.all():
        first = int(index[~fine][0])
        found = ", ".join(f"{name} {cells.at[first, name]!s}" for name in _NUMBERS)
        raise SlideError(
            f"{path}: {count((~fine).sum(), 'row')} of {slide_id!r} {agree((~fine).sum(), 'is', 'are')} not valid "
            f"squares; row {first + 2} has {found}.",
            hint=f"Allowed: finite numbers, a size of at least 1 px, and no coordinate or size above {FURTHEST_L0:,} "
            "px.",
        )
    whole = np.round(numbers[:, :3]).astype(np.int64)
    return SlideScores(slide_id, whole[:, :2], whole[:, 2], numbers[:, 3])
