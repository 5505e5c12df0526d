"""Single-threaded worker processes: results in order, and all processes end with the command, however it ends."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress
from multiprocessing.resource_tracker import ensure_running
from threading import Thread
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from slpd_toolkit.core.cluster import ProcessLostError, joined, on_cluster
from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.files import working_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Given = TypeVarTuple("Given")
Made = TypeVar("Made")

_WATCH_EVERY_S = 1.0


class WorkerKilledError(SlpdError):
    """A worker process was killed, probably because memory ran out."""


def in_processes(
    work: Callable[[*Given], Made], calls: Iterable[tuple[*Given]], jobs: int, *, doing: str
) -> Iterator[Made]:
    """Apply a function to each tuple of arguments; large arrays are mapped, not copied.

    Inside `joined_cluster`, the cluster does the work, whatever `jobs` is.

    Args:
        work: A module-level function.
        calls: Tuples of arguments; a few are consumed ahead.
        jobs: Number of processes; with 1, everything runs in this process.
        doing: Description of the work, for the message if a process is killed: `trains heads`.

    Yields:
        The results, in the order of the calls.

    Raises:
        WorkerKilledError: A process was killed.
    """
    here, folder = os.getpid(), working_folder()
    if ray := joined():
        try:
            yield from on_cluster(ray, _apply_remotely, ((folder, work, *call) for call in calls))
        except ProcessLostError as error:
            raise WorkerKilledError(
                f"A process of the cluster that {doing} repeatedly ended ({error}), probably because memory ran out.",
                hint="Give its nodes more memory, start them with fewer --num-cpus, or run without --cluster.",
            ) from error
        return
    # A process that was never given work must end with this one as well, so it watches from its start.
    watched = joblib.parallel_config("loky", inner_max_num_threads=1, initializer=end_with, initargs=(here,))
    with watched, _interrupts_held():
        made = joblib.Parallel(jobs, return_as="generator")(
            joblib.delayed(_apply)(here, folder, work, call) for call in calls
        )
    try:
        yield from made
    except TerminatedWorkerError as error:
        raise WorkerKilledError(
            f"A process that {doing} was killed, probably because memory ran out.", hint="Use fewer --jobs."
        ) from error


def release_workers() -> None:
    """End the worker processes, which otherwise stay idle and keep their memory for minutes."""
    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


def _apply(started_by: int, folder: str, work: Callable[[*Given], Made], call: tuple[*Given]) -> Made:
    if os.getpid() != started_by:
        with suppress(OSError):
            os.chdir(folder)  # processes are reused, also by a program that has changed its folder since
    return work(*call)


def _apply_remotely(folder: str, work: Callable[[*Given], Made], *call: *Given) -> Made:
    with suppress(OSError):
        os.chdir(folder)
    return work(*call)


def end_with(parent: int) -> None:
    """End this process soon after its parent: after kill -9 it would otherwise wait for work for minutes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_EVERY_S)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that ignore Ctrl-C; this process handles it after the block and ends them without tracebacks."""
    ensure_running()  # multiprocessing's resource tracker, whose start would unblock interrupts again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
