"""Leaving in good order: SIGTERM (a preempted SLURM job) and Ctrl-C finish the step and save.

Between steps lie passes over the whole cohort, which may take minutes, where a scheduler kills after half a minute.
They change nothing that a checkpoint holds, so they are left at once, and done again when the run goes on.
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


class Stopped(Exception):  # noqa: N818 - no error: someone asked for it
    """A pass over the cohort was left because someone asked the run to stop."""


@dataclass
class StopRequest:
    """Whether someone asked the run to stop, and the exit code that says who."""

    exit_code: int = 0

    def __bool__(self) -> bool:
        return self.exit_code != 0

    def leave_if_asked(self) -> None:
        """End a pass over the cohort; it calls this often.

        Raises:
            Stopped: Someone asked the run to stop.
        """
        if self:
            raise Stopped


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT for the duration of the block; a second Ctrl-C interrupts at once.

    Python handles signals in the main thread only. In any other thread, where `slpd.pretrain` may be called, nothing is
    caught and the request stays empty.
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
