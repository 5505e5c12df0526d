"""`--where`: selection of manifest rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.row_filter import select_rows

MANIFEST = Path("m.csv")
TABLE = pd.DataFrame(
    {"slide_id": list("abcde"), "split": ["train", "train", "test", "val", ""], "site": ["A2", "BH", "A2", "E9", "BH"]}
)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ((), "abcde"),
        (("split=train",), "ab"),
        (("split=train,val",), "abd"),
        (("split!=test",), "abde"),
        (("split!=train,test",), "de"),
        (("split=",), "e"),
        (("split!=",), "abcd"),
        (("split = train", "site!=A2"), "b"),
    ],
)
def test_rows_that_meet_all_conditions(where: tuple[str, ...], wanted: str) -> None:
    assert "".join(select_rows(TABLE, where, MANIFEST)["slide_id"]) == wanted


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("split", "--where: got 'split', allowed: COLUMN=VALUE"),
        ("=train", "--where: got '=train', allowed: COLUMN=VALUE"),
        ("splits=train", r"has no column splits \(did you mean split\?\)"),
        ("split=trian", r"no row of m\.csv has the split 'trian'"),
        ("split!=tset", r"no row of m\.csv has the split 'tset'"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select_rows(TABLE, (where,), MANIFEST)


def test_no_row_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no row of m\.csv meets all conditions"):
        select_rows(TABLE, ("split=val", "site=A2"), MANIFEST)
