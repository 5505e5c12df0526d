"""Cells and separators of CSV files: text that spreadsheets would run, and columns that are not separated by commas."""

import re
from pathlib import Path

_FORMULA = re.compile(r"[=@\t\r]|[+-]")
_HARMLESS = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+/-]+|-[\w.-]*", re.ASCII)
_MARK = "'"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HEADER_BYTES = 1 << 16


def mark_text(cell: object) -> object:
    """Put an apostrophe before text that a spreadsheet would take for a formula: `=1+1`, `@SUM(A1)`, `+cmd`.

    Numbers, signs alone (`+`, `+/-`) and names (`-A1`) stay as they are. `unmark_text` is the inverse.
    """
    return _MARK + cell if isinstance(cell, str) and _would_run(cell) else cell


def unmark_text(cell: str) -> str:
    """Remove the apostrophe of `mark_text`; other cells stay as they are."""
    return cell[len(_MARK) :] if cell.startswith(_MARK) and _would_run(cell[len(_MARK) :]) else cell


def other_separator(path: Path) -> str:
    """Return a hint for an error where a table's columns are not separated by commas; else an empty text."""
    try:
        if not path.is_file():  # a FIFO would block
            return ""
        with path.open("rb") as handle:
            header = handle.readline(_HEADER_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
    counts = {name: header.count(character) for character, name in _SEPARATORS.items()}
    name = max(counts, key=lambda each: counts[each])
    if "," in header or not counts[name]:
        return ""
    return f"Separate the columns by commas; here {name} separate them."


def _would_run(text: str) -> bool:
    return _FORMULA.match(text) is not None and _HARMLESS.fullmatch(text) is None
