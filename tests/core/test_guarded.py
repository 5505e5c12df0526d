"""Calls that abort, hang or ask for too much memory end alone; no process outlives the program that started it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.guarded import GuardedPool, GuardedProcess, Limits, ProcessDiedError, ProcessHungError
from tests.conftest import REPOSITORY
from tests.guarded_work import pictures, raises_ours, say_and_abort, spin, work_in_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


QUICK = Limits(memory_bytes=4 << 30)
IMPATIENT = Limits(cpu_s=0.5, wall_s=1.0)


@pytest.fixture
def pool() -> Iterator[GuardedPool]:
    with GuardedPool(QUICK) as made:
        yield made


def test_results_come_back_whole_and_the_process_is_used_again(pool: GuardedPool) -> None:
    process = pool.call(os.getpid)
    assert process != os.getpid()
    for side in (300, 3000, 10):  # larger and smaller than what is kept of the shared memory
        found = pool.call(pictures, side)
        wanted = pictures(side)
        assert found.name == wanted.name
        assert (found.pixels == wanted.pixels).all()
        assert (found.mask == wanted.mask).all()
        found.pixels[0] = 0  # belongs to the caller
    assert pool.call(os.getpid) == process
    with GuardedPool(QUICK) as later:
        assert later.call(os.getpid) == process


def test_relative_paths_are_meant_in_the_folder_of_the_call(
    pool: GuardedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert pool.call(os.getcwd) == str(tmp_path / name)


def test_environment_variables_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of object storage may be set after the first slide failed without them."""
    told = []
    for value in ("first", "second", "second"):
        monkeypatch.setenv("SLPD_TEST_KEY", value)
        with GuardedPool(QUICK) as pool:
            told.append((pool.call(os.getenv, "SLPD_TEST_KEY"), pool.call(os.getpid)))
    assert [value for value, _ in told] == ["first", "second", "second"]
    assert told[0][1] != told[1][1] == told[2][1]


def test_exceptions_come_back_as_they_were_raised(pool: GuardedPool) -> None:
    with pytest.raises(SlideError, match="a message") as caught:
        pool.call(raises_ours)
    assert caught.value.hint == "a hint"
    with pytest.raises(ValueError, match="invalid literal"):
        pool.call(int, "x")
    assert pool.call(int, "7") == 7


@pytest.mark.slow
def test_an_abort_is_told_with_its_signal_and_last_words(pool: GuardedPool) -> None:
    with pytest.raises(ProcessDiedError, match=r"SIGABRT \(allocation failed\)"):
        pool.call(say_and_abort)
    with pytest.raises(ProcessDiedError, match="exit code 3"):
        pool.call(os._exit, 3)
    assert pool.call(int, "7") == 7


@pytest.mark.slow
def test_a_call_without_progress_is_ended_and_one_with_progress_is_not() -> None:
    def ended(limits: Limits, function: Callable[..., object], *arguments: object) -> str:
        process = GuardedProcess(QUICK)
        try:
            process.call(pickle.dumps((work_in_steps, (1,), "")), QUICK)  # what it imports takes time too
            process.call(pickle.dumps((function, arguments, "")), limits)
        except ProcessHungError as error:
            return error.message
        finally:
            process.close()
        return ""

    assert ended(Limits(cpu_s=0.5, wall_s=600), spin) == "no progress within 0.5 s of CPU time"
    assert ended(IMPATIENT, time.sleep, 1000) == "no progress within 1 s"
    assert not ended(IMPATIENT, work_in_steps, 4)


def test_memory_is_limited(pool: GuardedPool) -> None:
    with pytest.raises(MemoryError, match="more than 4 GiB"):
        pool.call(np.zeros, 1 << 33)
    assert pool.call(int, "7") == 7


def test_closing_a_pool_ends_its_calls_at_once(pool: GuardedPool) -> None:
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            pool.call(time.sleep, 1000)
        except ProcessDiedError as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not pool.busy:
        time.sleep(0.01)
    pool.close()
    thread.join(timeout=30)
    assert len(ended) == 1
    with pytest.raises(ProcessDiedError, match="was closed"):
        pool.call(int, "7")


ORPHANS = """
import os, sys, threading, time
from slpd_toolkit.core.guarded import GuardedPool, GuardedProcess, Limits
pool = GuardedPool(Limits())
for seconds in (1000, 1000):
    threading.Thread(target=pool.call, args=(time.sleep, seconds), daemon=True).start()
while len(pool.busy) < 2:
    time.sleep(0.01)
print(*(process.pid for process in pool.busy), pool.call(os.getpid), flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_program(number: signal.Signals) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert started.stdout
    processes = [int(word) for word in started.stdout.readline().split()]
    assert len(processes) == 3
    started.send_signal(number)
    started.wait(timeout=60)
    started.stdout.close()
    deadline = time.monotonic() + 30
    while any(is_running(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
