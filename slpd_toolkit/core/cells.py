"""Cells and separators of CSV files: text that spreadsheets would run, and columns that are not separated by commas."""

import re
from pathlib import Path

_FORMULA = re.compile(r"[=@\t\r]|[+-]")
_HARMLESS = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+/-]+|-[\w.-]*", re.ASCII)
_MARK = "'"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SIGNATURES = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
}
_HEADER_BYTES = 1 << 16


def mark_text(cell: object) -> object:
    """Put an apostrophe before text that a spreadsheet would take for a formula: `=1+1`, `@SUM(A1)`, `+cmd`.

    Numbers, signs alone (`+`, `+/-`) and names (`-A1`) stay as they are. `unmark_text` is the inverse.
    """
    return _MARK + cell if isinstance(cell, str) and _would_run(cell) else cell


def unmark_text(cell: str) -> str:
    """Remove the apostrophe of `mark_text`; other cells stay as they are."""
    return cell[len(_MARK) :] if cell.startswith(_MARK) and _would_run(cell[len(_MARK) :]) else cell


def csv_hint(path: Path) -> str:
    """Return a hint if a file is not a CSV table in UTF-8, or its columns are not separated by commas; else ""."""
    try:
        if not path.is_file():  # a FIFO would block
            return ""
        with path.open("rb") as handle:
            start = handle.readline(_HEADER_BYTES)
    except OSError:
        return ""
    kind = next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), "")
    if kind or b"\0" in start:
        return f"It is {kind or 'a binary file'}: save it as CSV in UTF-8."
    header = start.decode("utf-8-sig", errors="replace")
    if "\ufffd" in header:
        return "Save it as CSV in UTF-8."
    counts = {name: header.count(character) for character, name in _SEPARATORS.items()}
    name = max(counts, key=lambda each: counts[each])
    if "," in header or not counts[name]:
        return ""
    return f"Separate the columns by commas; here {name} separate them."


def _would_run(text: str) -> bool:
    return _FORMULA.match(text) is not None and _HARMLESS.fullmatch(text) is None
