"""Locks of results folders: other processes, killed processes, other hosts, file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core import folder_lock
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.folder_lock import LOCK, is_lock, taking_turns, working_in, writing_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from slpd_toolkit.core.folder_lock import working_in
with working_in(Path(sys.argv[1]), "embed"):
    print("held", flush=True)
    time.sleep(60)
"""
SOON_S = 0.02


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


def write_owner(folder: Path, beat: int = 0) -> Path:
    """Write a lock file of another host."""
    folder.mkdir(exist_ok=True)
    owner = {"command": "embed", "host": "n07", "machine": "its", "pid": 9, "since": "then", "token": "t", "beat": beat}
    (folder / LOCK).write_text(json.dumps(owner).ljust(1024))
    return folder / LOCK


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "BEAT_S", SOON_S)
    monkeypatch.setattr(folder_lock, "_SETTLE_S", SOON_S)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)


def test_the_second_is_told_who_works_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with held_by_another_process(folder) as other:
        who = f"`slpd embed`, process {other.pid} on {socket.gethostname()}, since 20"
        told = f"{re.escape(str(folder))} is in use: {who}"
        with pytest.raises(UsageError, match=told) as refused, working_in(folder, "pretrain"):
            pass
        assert refused.value.exit_code == 2
        with working_in(tmp_path / "elsewhere", "pretrain"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (folder / LOCK).exists()
        with working_in(folder, "pretrain"):
            pass
    assert not (folder / LOCK).exists()


def test_nested_in_one_process(tmp_path: Path) -> None:
    with working_in(tmp_path, "demo"):
        with working_in(tmp_path / "cache", "embed"), pytest.raises(UsageError, match=f"process {os.getpid()} on"):
            working_in(tmp_path, "embed").__enter__()
        assert any(map(is_lock, tmp_path.iterdir()))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_folders_stay_if_they_hold_something(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), working_in(tmp_path / "a" / "b", "embed"):
        raise ValueError("no")
    assert not (tmp_path / "a").exists()
    with working_in(tmp_path / "a" / "b", "embed"):
        (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        ((1, 2), (2, 2), True),
        ((1, 12), (2, 12), True),
        ((1, 2), (1, 2), False),
        ((1, 2), (2, 12), False),
        ((1, 2), (1, 1), False),
        ((1, 1), (2, 2), False),
    ],
)
def test_parts_of_one_division_share_a_folder(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int], free: bool
) -> None:
    with ExitStack() as stack:
        stack.enter_context(working_in(tmp_path, "embed", first))
        if free:
            stack.enter_context(working_in(tmp_path, "embed", second))
        else:
            with pytest.raises(UsageError, match="is in use"):
                stack.enter_context(working_in(tmp_path, "embed", second))
    with working_in(tmp_path, "embed", second):
        pass


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_killed_on_another_host_does_not_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_owner(tmp_path)
    with working_in(tmp_path, "embed"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert "whether another process is still running: `slpd embed`, process 9 on n07" in capsys.readouterr().err
    write_owner(tmp_path).rename(tmp_path / f"{LOCK}.3-of-8")
    with working_in(tmp_path, "embed"):
        pass


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [LOCK, f"{LOCK}.3-of-8"])
def test_a_run_that_lives_on_another_host_does(tmp_path: Path, name: str) -> None:
    """If locks are local to a host or unsupported, the updates of the record show it."""
    beats = 0

    def live() -> None:
        nonlocal beats
        while not done.wait(SOON_S / 4):
            beats += 1
            write_owner(tmp_path / "beats", beats).replace(tmp_path / name)

    done = threading.Event()
    other = threading.Thread(target=live)
    write_owner(tmp_path).rename(tmp_path / name)
    other.start()
    try:
        with pytest.raises(UsageError, match="is in use: `slpd embed`, process 9 on n07, since then"):
            working_in(tmp_path, "embed").__enter__()
    finally:
        done.set()
        other.join()


@pytest.mark.usefixtures("quick", "no_locks")
def test_without_locks_an_owner_is_known_by_its_beats(tmp_path: Path) -> None:
    with working_in(tmp_path, "mil-eval"), pytest.raises(UsageError, match="is in use: `slpd mil-eval`"):
        working_in(tmp_path, "embed").__enter__()
    assert not list(tmp_path.iterdir())
    write_owner(tmp_path)
    with working_in(tmp_path, "embed"):
        pass


@pytest.mark.usefixtures("quick", "no_locks")
def test_of_two_that_start_at_once_without_locks_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: write_owner(tmp_path))
    with pytest.raises(UsageError, match="process 9 on n07"):
        working_in(tmp_path, "embed").__enter__()


def test_a_lock_file_that_is_something_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"\xff{")
    with working_in(tmp_path, "embed"):
        assert json.loads((tmp_path / LOCK).read_text())["command"] == "embed"


def test_writers_of_a_shared_file_take_turns(tmp_path: Path) -> None:
    events: list[str] = []

    def second() -> None:
        with taking_turns(tmp_path) as locked:
            assert locked
            events.append("second")

    with taking_turns(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.05)
        events.append("first")
    other.join()
    assert events == ["first", "second"]


@pytest.mark.usefixtures("no_locks")
def test_where_folders_cannot_be_locked_writers_know(tmp_path: Path) -> None:
    with taking_turns(tmp_path) as locked:
        assert not locked


def test_a_file_is_locked_against_other_commands_and_not_against_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    with (
        working_in(tmp_path, "pretrain"),
        writing_to(file, "export"),
        writing_to(tmp_path / "y.pth", "export"),
        pytest.raises(UsageError, match=rf"x\.pth is in use: `slpd export`, process {os.getpid()} on .*, since 20"),
        writing_to(file, "represent"),
    ):
        pass
    assert not list(tmp_path.iterdir())
    lock = file.with_name(f".{file.name}{LOCK}")
    lock.write_text("{}")  # of a killed command
    assert is_lock(lock)
    with writing_to(file, "export"):
        pass
