from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core import console

if TYPE_CHECKING:
    from collections.abc import Iterator

BRACKETS = "/data/[red]cohort[/red]/[x"


@pytest.fixture(autouse=True)
def fresh_console() -> Iterator[None]:
    """Create new consoles for each test, because a console inspects its stream only once."""
    console._console.cache_clear()
    yield
    console._console.cache_clear()


def test_messages_go_to_standard_error_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.note(f"note {BRACKETS}")
    console.warn(f"warn {BRACKETS}")
    console.error(f"error {BRACKETS}", f"do {BRACKETS}")
    console.error("alone")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"note {BRACKETS}\nwarning: warn {BRACKETS}\nerror: error {BRACKETS}\n  next: do {BRACKETS}\nerror: alone\n"
    )


def test_long_messages_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("x" * 300)
    assert capsys.readouterr().err == f"error: {'x' * 300}\n"


def test_tables_go_to_standard_output_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"slide": BRACKETS, "regions": 12_345, "share": 0.123456, "rate": 1234.5},
        {"slide": "b", "regions": 1, "share": 0.5, "rate": 2.0},
    ]
    console.table(f"Cache {BRACKETS}", rows)
    out, err = capsys.readouterr()
    assert err == ""
    assert f"Cache {BRACKETS}" in out
    assert all(text in out for text in (BRACKETS, "12,345", "0.1235", "1,234.5", "0.5"))
    assert max(map(len, out.splitlines())) <= 80
    console.table("nothing", [])
    assert capsys.readouterr().out == ""


def test_facts_are_names_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    console.facts(f"File {BRACKETS}", {"path": BRACKETS, "count": 1234, "long": "word " * 40, "[name]": "[value]"})
    out = capsys.readouterr().out
    assert BRACKETS in out
    assert "1,234" in out
    assert "[name]" in out
    assert "[value]" in out
    assert out.count("word") == 40
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_bytes_for_people(count: float, said: str) -> None:
    assert console.human_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (8.27, "8.3 s"),
        (59.94, "59.9 s"),
        (60, "1:00"),
        (245, "4:05"),
        (3599.6, "1:00:00"),
        (3753, "1:02:33"),
        (360_000, "100:00:00"),
    ],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert console.human_seconds(seconds) == said


def test_outside_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 5)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with console.progress("embed", total=1, unit="patches") as progress:
        progress.expect(1000)
        for done in range(1, 10):
            progress.advance(50, f"{done}/9 slides")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "embed: 150/1000 patches, 10.0/s, 1:25 left, 3/9 slides",
        "embed: 300/1000 patches, 10.0/s, 1:10 left, 6/9 slides",
        "embed: 450/1000 patches, 10.0/s, 55.0 s left, 9/9 slides",
    ]


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress("embed", total=10, unit="patches") as progress:
        progress.expect(20)
        progress.advance(20, "1/1 [slides]")
    err = capsys.readouterr().err
    assert "100%" in err
    assert "patches/s" in err
    assert "1/1 [slides]" in err


def test_a_step_of_a_longer_command_says_what_matters_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", itertools.count(0.0, 20.0).__next__)
    with console.step("2/6 tokens"):
        console.note("Look here.")
        console.table("Cache", [{"slides": 3}])
        console.facts("Audit", {"splits": "clean"})
        console.warn("one slide failed")
        with console.progress("embed", total=10, unit="patches") as progress:
            progress.advance(4)
    console.note("after")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: one slide failed\n2/6 tokens: embed: 4/10 patches, 0.2/s, 30.0 s left\nafter\n"
