"""Graceful shutdown: on SIGTERM (a preempted SLURM job) and Ctrl-C, finish the step and save.

Passes over the whole cohort between steps may take minutes, but a scheduler kills the job after about half a minute.
They do not change the checkpointed state, so they are aborted immediately and repeated when the run is resumed.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Stopped(Exception):  # noqa: N818 - not an error, but requested
    """A pass over the cohort was aborted because the run was asked to stop."""


@dataclass
class StopRequest:
    """Whether the run was asked to stop, and the exit code for the signal."""

    exit_code: int = 0

    def __bool__(self) -> bool:
        return self.exit_code != 0

    def leave_if_asked(self) -> None:
        """Abort a pass over the cohort if the run was asked to stop. Called frequently during the pass.

        Raises:
            Stopped: The run was asked to stop.
        """
        if self:
            raise Stopped


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT for the duration of the block; a second Ctrl-C interrupts immediately.

    Python handles signals only in the main thread. In any other thread, from which `slpd.pretrain` may be called,
    nothing is caught and the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        request.exit_code = 128 + number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
