from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.failures import Failure, FailureLog, read_failures
from tests.cohorts import read_csv

if TYPE_CHECKING:
    from pathlib import Path


def failure(slide_id: str = "a", error: str = "wrong.", hint: str = "Fix it.") -> Failure:
    return Failure("embed", slide_id, "a.svs", error, hint)


def test_an_error_of_the_user_s_is_its_message_and_hint(tmp_path: Path) -> None:
    told = Failure.of("embed", "a", tmp_path, SlideError("what.", hint="next."))
    assert told == Failure("embed", "a", str(tmp_path), "what.", "next.")


def test_what_the_system_refuses_is_told_in_its_words() -> None:
    told = Failure.of("embed", "a", "a.svs", PermissionError(13, "Permission denied", "a.svs"))
    assert told.error == "[Errno 13] Permission denied: 'a.svs'."
    assert "permissions" in told.hint


def test_a_surprise_keeps_its_type() -> None:
    told = Failure.of("embed", "a", "a.svs", ZeroDivisionError("division by zero"))
    assert told.error == "ZeroDivisionError: division by zero"
    assert "report" in told.hint


def test_the_log_is_on_disk_from_the_start_and_after_every_row(tmp_path: Path) -> None:
    path = tmp_path / "failures.csv"
    path.write_text("of an earlier run")
    log = FailureLog(path)
    assert path.read_text() == "stage,slide_id,path,error,hint\n"
    for number in range(3):
        log.add(failure(f"s{number}", 'a "quoted", error\non two lines'))
        assert len(log) == len(read_csv(path)) == number + 1
    assert read_csv(path)[2] == vars(failure("s2", 'a "quoted", error\non two lines'))


def test_a_slide_has_one_row_that_says_everything_once(tmp_path: Path) -> None:
    log = FailureLog(tmp_path / "failures.csv")
    for told in (failure(), failure("b"), failure(error="worse."), failure(), failure(hint="Leave.")):
        log.add(told)
    assert [(row.slide_id, row.error, row.hint) for row in log.rows] == [
        ("a", "wrong. worse.", "Fix it. Leave."),
        ("b", "wrong.", "Fix it."),
    ]


def test_rows_without_a_slide_id_stay_apart(tmp_path: Path) -> None:
    log = FailureLog(tmp_path / "failures.csv")
    log.add(failure(""))
    log.add(failure(""))
    assert len(log) == 2


def test_a_row_that_cannot_be_written_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FailureLog(tmp_path / "failures.csv")
    log.add(failure())
    before = log.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("slpd_toolkit.core.files.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*failures\.csv'"):
        log.add(failure("b"))
    assert log.path.read_bytes() == before


def test_a_row_is_written_without_the_rows_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FailureLog(tmp_path / "failures.csv")
    monkeypatch.setattr("slpd_toolkit.core.failures.write_csv", lambda *_: pytest.fail("all rows are written again"))
    for number in range(4):
        log.add(failure(f"=s{number}"))
        log.add(failure(f"=s{number}"))  # the same once more changes nothing
    names = [f"=s{number}" for number in range(4)]
    assert read_failures(tmp_path)["slide_id"].tolist() == names
    monkeypatch.undo()
    log.path.unlink()
    log.add(failure("b"))
    assert read_failures(tmp_path)["slide_id"].tolist() == [*names, "b"]
