"""Manifests: reading cohort CSVs and checking every row before any work starts (columns: manifests/README.md)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from slpd_toolkit.core.csv_tables import read_text_table
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import Location, is_safe_name, is_url, special_kind
from slpd_toolkit.core.text import listed
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp

REQUIRED_COLUMNS = ("slide_id", "slide_path")
_MESSAGE_ROWS = 50


@dataclass(frozen=True)
class SlideEntry:
    """One usable row of a manifest. `mpp_l0` is None if it must come from the slide file; `row` as in `Problem`."""

    row: int
    slide_id: str
    slide_path: Location
    patient_id: str
    mpp_l0: float | None
    mask_path: Path | None = None


@dataclass(frozen=True)
class Problem:
    """One unusable row. `row` is the line number that an editor shows: the header is row 1."""

    row: int
    slide_id: str
    slide_path: str
    error: str
    hint: str

    def __str__(self) -> str:
        return f"row {self.row} ({self.slide_id or 'no slide_id'}): {self.error} {self.hint}".rstrip()


def read_table(path: Path, required: Sequence[str] = REQUIRED_COLUMNS) -> pd.DataFrame:
    """Read all cells of a manifest as text, without conversion to numbers, dates or NaN.

    Args:
        path: CSV, UTF-8, with or without a byte-order mark.
        required: Required columns.

    Returns:
        One row per slide, all columns as `str`, stripped, empty cells as "". The index is the row number in the file.

    Raises:
        UsageError: The file cannot be read as CSV, a required column is missing, or there are no rows.
    """
    title = f"Manifest {path}"
    table = read_text_table(
        path, required, title=title, hint="The first line names the columns; see manifests/README.md."
    )
    if table.empty:
        raise UsageError(f"{title} has no slides.", hint="Add one row per slide below the header.")
    return table


def check_rows(table: pd.DataFrame, folder: Path) -> tuple[list[SlideEntry], list[Problem]]:
    """Split the rows of a manifest into usable slides and problems. Checks that slide files exist; opens none.

    Args:
        table: From `read_table`.
        folder: Base folder of relative slide paths.

    Returns:
        The usable rows, and one `Problem` per fault, both in the order of the rows.
    """
    entries, problems = [], []
    rows_of = _rows_of(table)
    for row, cells in zip(table.index, table.to_dict("records"), strict=True):
        slide_id, raw_path, raw_mpp = cells["slide_id"], cells["slide_path"], cells.get("mpp", "")
        path: Location = raw_path if is_url(raw_path) else folder / raw_path
        found = [*_id_problems(slide_id, rows_of[slide_id]), *_path_problems(path, raw_path), *_mpp_problems(raw_mpp)]
        problems += [Problem(int(row), slide_id, raw_path, error, hint) for error, hint in found]
        if not found:
            mpp_l0 = float(raw_mpp) if raw_mpp else None
            mask = cells.get("mask_path", "")
            patient = cells.get("patient_id") or slide_id
            entries.append(SlideEntry(int(row), slide_id, path, patient, mpp_l0, folder / mask if mask else None))
    return entries, problems


def check_ids(table: pd.DataFrame) -> list[Problem]:
    """Check only the slide IDs of a manifest, where no slide files are needed; return one `Problem` per fault."""
    rows_of = _rows_of(table)
    return [
        Problem(int(row), slide_id, "", error, hint)
        for row, slide_id in zip(table.index, table["slide_id"], strict=True)
        for error, hint in _id_problems(slide_id, rows_of[slide_id])
    ]


def _rows_of(table: pd.DataFrame) -> dict[str, list[int]]:
    rows_of = defaultdict[str, list[int]](list)
    for row, slide_id in zip(table.index.tolist(), table["slide_id"], strict=True):
        rows_of[slide_id].append(row)
    return rows_of


def check_masks(entries: Sequence[SlideEntry], *, needed: bool) -> tuple[list[SlideEntry], list[Problem]]:
    """Split slides into those whose mask can be used and problems.

    Args:
        entries: From `check_rows`.
        needed: Whether every slide must have a mask.
    """
    usable, problems = [], []
    for entry in entries:
        error, hint = "", "Correct `mask_path`. A relative path is relative to the same folder as slide_path."
        if entry.mask_path is None and needed:
            error, hint = "mask_path is empty.", "Every slide needs a mask unless --mask-mode is `not`."
        elif entry.mask_path is not None and not entry.mask_path.is_file():
            error = f"no such file: {entry.mask_path}."
        if error:
            problems.append(Problem(entry.row, entry.slide_id, str(entry.slide_path), error, hint))
        else:
            usable.append(entry)
    return usable, problems


def summarise(problems: Sequence[Problem]) -> str:
    """Join problems into one message, a line each; after fifty lines, state how many more there are."""
    lines = [f"  {problem}" for problem in problems[:_MESSAGE_ROWS]]
    if len(problems) > _MESSAGE_ROWS:
        lines.append(f"  and {len(problems) - _MESSAGE_ROWS} more")
    return "\n".join(lines)


def _id_problems(slide_id: str, rows: Sequence[int]) -> list[tuple[str, str]]:
    if not slide_id:
        return [("slide_id is empty.", "Give every slide a unique name.")]
    found = []
    if not is_safe_name(slide_id):
        found.append(
            (
                f"slide_id {slide_id!r} is not a valid file name.",
                "Allowed: letters, digits, '.', '_', '-', not starting with '.'.",
            )
        )
    if len(rows) > 1:
        others = listed(map(str, rows))
        found.append(
            (f"slide_id {slide_id!r} occurs in rows {others}.", "Make it unique: its token file has this name.")
        )
    return found


def _path_problems(path: Location, raw_path: str) -> list[tuple[str, str]]:
    if not raw_path:
        return [("slide_path is empty.", "Enter the path of the slide file.")]
    if isinstance(path, str):
        needs = [(f"{path} is a URL.", "URLs need an extra: pip install 'slpd-toolkit[remote]'.")]
        return [] if find_spec("tiffslide") else needs
    try:
        kind = special_kind(path)
        if kind:
            return [(f"{path} is {kind}, not a slide file.", "Enter the path of the slide file.")]
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a NUL byte is a ValueError
        return [(f"no such file: {path}.", "Use an absolute path, or one relative to the manifest or --slides-root.")]
    except OSError as error:
        return [(f"{path} is not accessible ({error.strerror}).", "Check the path and its permissions.")]
    return []


def _mpp_problems(raw_mpp: str) -> list[tuple[str, str]]:
    if not raw_mpp:
        return []
    low, high = MPP_RANGE
    try:
        usable = is_plausible_mpp(float(raw_mpp))
    except ValueError:
        usable = False
    return (
        []
        if usable
        else [(f"mpp is {raw_mpp!r}.", f"Allowed: {low} to {high} um/px, or empty to use the value in the file.")]
    )
