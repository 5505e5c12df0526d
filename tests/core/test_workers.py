"""Worker processes: order of results, killed workers, and no process outlives a killed command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.workers import in_processes, release_workers
from tests.conftest import REPOSITORY

SLEEPER = """
import sys, time
from slpd_toolkit.core.workers import in_processes
def sleep(seconds):
    print("begun", flush=True)
    time.sleep(seconds)
    print("outlived", flush=True)
list(in_processes(sleep, [(20,)] * 2, 2, doing="sleeps"))
"""


def work(number: int, factor: int) -> tuple[int, int]:
    time.sleep(0.1 / (1 + number))
    return number * factor, os.getpid()


def end(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_one_process_is_this_one() -> None:
    assert list(in_processes(work, [(1, 10), (2, 10)], 1, doing="counts")) == [(10, os.getpid()), (20, os.getpid())]


@pytest.mark.slow
def test_several_give_the_same_in_order() -> None:
    made = list(in_processes(work, ((number, 10) for number in range(8)), 2, doing="counts"))
    assert [value for value, _ in made] == list(range(0, 80, 10))
    assert os.getpid() not in {process for _, process in made}
    release_workers()


@pytest.mark.slow
def test_a_killed_process_is_told() -> None:
    with pytest.raises(SlpdError, match=r"A process that counts was killed.*--jobs"):
        list(in_processes(end, [(number,) for number in range(4)], 2, doing="counts"))


@pytest.mark.slow
def test_none_outlives_a_killed_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        assert [command.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        command.kill()
        assert command.stdout.read() == ""  # ends when the last process that holds it does
