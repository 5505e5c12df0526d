from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.csv_tables import read_number_table, read_text_table
from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def test_numbers_and_text(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfslide_id, a ,b,note\n NA ,1,,x\n05,2.5,NaN,\n")
    table = read_number_table(path, ("slide_id",), ("a",))
    assert table["slide_id"].tolist() == ["NA", "05"]
    assert list(table) == ["slide_id", "a", "b", "note"]
    assert table["a"].tolist() == [1.0, 2.5]
    assert table["b"].isna().all()
    text = read_text_table(path, ("slide_id",), title="T", hint="")
    assert text.to_dict("records")[1] == {"slide_id": "05", "a": "2.5", "b": "NaN", "note": ""}
    assert text.index.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"slide_id,a,a\nS,1,2\n", "duplicate column a. Keep one"),
        (b"slide_id,b\nS,1\n", "column a is missing; found slide_id, b"),
        (b"slide_id,a\nS,1,7\nT,2,7\n", "more cells than the header|Expected 2 fields in line 2, saw 3"),
        ("slide_id,a\nS,1\n".encode("utf-16"), "UTF-16 text: save it as CSV in UTF-8"),
        (b"slide_id,a\nS,\xdc\n", "Save it as CSV in UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00", "a zip archive or an Excel workbook"),
        (b"slide_id\0a\n", "a binary file"),
        (b"a" * 100_000, r"found a{1000}\.\.\.\."),
        (b"", "cannot be read as UTF-8 CSV"),
    ],
)
def test_what_is_not_a_table_is_refused(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError) as as_numbers:
        read_number_table(path, ("slide_id",), ("slide_id", "a"))
    with pytest.raises(UsageError) as as_text:
        read_text_table(path, ("slide_id", "a"), title=str(path), hint="")
    for refused in (as_numbers, as_text):
        assert refused.match(said)
        assert len(str(refused.value)) < 1500


def test_a_fifo_is_refused_before_it_is_opened(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(UsageError, match="it is a FIFO, not a regular file"):
        read_number_table(path, (), ())
    with pytest.raises(UsageError, match="it is a FIFO, not a regular file"):
        read_text_table(path, (), title="T", hint="")
