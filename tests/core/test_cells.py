from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slpd_toolkit.core.cells import csv_hint, mark_text, unmark_text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "text", ["=1+1", "=HYPERLINK(A1)", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "+A1", "\t=1", "-(1)"]
)
def test_what_a_spreadsheet_would_run_is_marked(text: str) -> None:
    assert mark_text(text) == "'" + text
    assert unmark_text("'" + text) == text


@pytest.mark.parametrize(
    "cell", ["", "+", "-", "+/-", "-1.5", "+2", "-1e-5", "-A.1_b", "a=b", "'quoted'", "'", "''", 3, None]
)
def test_other_cells_stay(cell: object) -> None:
    assert mark_text(cell) == cell
    if isinstance(cell, str):
        assert unmark_text(cell) == cell


@given(st.text(alphabet="=+-@\t'a1. (", max_size=6).filter(lambda text: not text.startswith("'")))
def test_marked_text_is_read_as_it_was(text: str) -> None:
    marked = mark_text(text)
    assert isinstance(marked, str)
    assert unmark_text(marked) == text


@pytest.mark.parametrize(
    ("header", "said"),
    [("a;b;c\n1;2;3", "semicolons"), ("\ufeffa\tb\n", "tabs"), ("a|b", "vertical bars"), ("a,b;c\n", ""), ("a\n", "")],
)
def test_separators_that_are_not_commas_are_named(tmp_path: Path, header: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(header, encoding="utf-8")
    hint = csv_hint(tmp_path / "t.csv")
    assert hint == (f"Separate the columns by commas; here {said} separate them." if said else "")
    assert csv_hint(tmp_path / "absent.csv") == ""
