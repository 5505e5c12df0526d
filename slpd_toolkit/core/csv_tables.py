"""Reading CSV tables that users write: as text, or as numbers with columns of text."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pandas as pd

from slpd_toolkit.core.cells import csv_hint, unmark_text
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import require_regular
from slpd_toolkit.core.text import agree, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

_MISSING = ("", "NaN", "nan", "NA", "N/A", "n/a", "NULL", "null", "None", "<NA>", "-nan", "-NaN", "#N/A")


def read_text_table(path: Path, required: Sequence[str], *, title: str, hint: str) -> pd.DataFrame:
    """Read all cells as text, without conversion to numbers, dates or NaN.

    Args:
        path: CSV, UTF-8, with or without a byte-order mark.
        required: Required columns.
        title: How messages name the file: `Manifest cohort.csv`.
        hint: What to do if the table is not one of the expected kind.

    Returns:
        All named columns as `str`, stripped, empty cells as "", without empty rows. The index is the row number in the
        file.

    Raises:
        UsageError: The file cannot be read as CSV, or a column is missing or occurs twice.
    """
    try:
        # The header is read as a row, so that pandas neither renames duplicate columns nor takes the first cell of an
        # overlong row as its index; skip_blank_lines=False keeps row numbers correct.
        require_regular(path)
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False
        )
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise _not_csv(path, title, error, hint) from error
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    _check_columns(path, cells.iloc[0].tolist(), required, title, hint)
    table = cells.iloc[1:].set_axis(cells.iloc[0], axis=1)
    table = table.loc[:, table.columns != ""]  # trailing columns that spreadsheets leave
    table = table.apply(lambda column: column.map(unmark_text))
    table.index = table.index + 1
    return pd.DataFrame(table[(table != "").any(axis=1)])


def read_number_table(path: Path, text: Collection[str], required: Sequence[str], *, hint: str = "") -> pd.DataFrame:
    """Read a table of numbers, which may have columns of text.

    Args:
        path: CSV, UTF-8, with or without a byte-order mark.
        text: Columns that are read as text, stripped; others are numbers where all of their cells are.
        required: Required columns.
        hint: What to do if the table is not one of the expected kind.

    Raises:
        UsageError: The file cannot be read as CSV, a column is missing or occurs twice, or a row has more cells than
            the header.
    """
    title = str(path)
    try:
        require_regular(path)
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        names = [str(name).strip() for name in first.iloc[0]]
        _check_columns(path, names, required, title, hint)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                index_col=False,  # otherwise, if rows have one cell more than the header, columns are shifted
                dtype={name: str for name in names if name in text},
                keep_default_na=False,
                na_values={name: _MISSING for name in names if name not in text},
                encoding="utf-8-sig",
                low_memory=False,
            )
    except pd.errors.ParserWarning as error:
        raise UsageError(
            f"{path}: rows have more cells than the header.", hint="Remove the commas at the end of rows."
        ) from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise _not_csv(path, title, error, hint) from error
    table.columns = [name or str(of) for name, of in zip(names, table.columns, strict=True)]
    for name in set(text) & set(names):
        table[name] = table[name].fillna("").str.strip()
    return table


def _check_columns(path: Path, names: Sequence[str], required: Sequence[str], title: str, hint: str) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise UsageError(
            f"{title}: {agree(len(missing), 'column', 'columns')} {', '.join(missing)} "
            f"{agree(len(missing), 'is', 'are')} missing; found {listed(name for name in names if name)}.",
            hint=csv_hint(path) or hint,
        )
    twice = sorted({name for name in names if name and names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UsageError(f"{title}: duplicate column {listed(twice)}.", hint="Keep one.")


def _not_csv(path: Path, title: str, error: Exception, hint: str) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{title} does not exist.", hint="Check the path.")
    reason = error.strerror if isinstance(error, OSError) else str(error).strip()
    if isinstance(error, UnicodeDecodeError):
        hint = "Save it as CSV in UTF-8."
    return UsageError(f"{title} cannot be read as UTF-8 CSV ({reason}).", hint=csv_hint(path) or hint)
