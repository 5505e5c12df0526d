"""Embedding on several devices of this machine: one process per device."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from slpd_toolkit.ingest.embedding.device_process import settings_of_lanes
from slpd_toolkit.ingest.embedding.fleet import Fleet, Member
from slpd_toolkit.ingest.embedding.readers import count_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.ingest.embedding.device_process import DeviceSettings
    from slpd_toolkit.ingest.embedding.lane import Lane
    from slpd_toolkit.slides.plan import SlidePlan

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from slpd_toolkit.ingest.embedding.device_process import serve; serve({fd})"
)


@dataclass(eq=False, kw_only=True)
class DeviceProcess(Member):
    """The process of one device."""

    process: subprocess.Popen[bytes]
    connection: Connection

    def send(self, entry: SlideEntry | None) -> None:
        """Send a slide."""
        with suppress(OSError):
            self.connection.send(entry)

    def receive(self) -> list[tuple[Any, ...]]:
        """Return one message."""
        try:
            return [self.connection.recv()]
        except (OSError, pickle.UnpicklingError) as error:
            raise EOFError from error

    def end(self) -> None:
        """Kill the process if it is running."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def how_it_ended(self) -> str:
        """Return its exit code."""
        return str(self.process.returncode)


def device_fleet(
    devices: Sequence[torch.device], lanes: Sequence[Lane], draw: Callable[[Path, SlidePlan], None]
) -> Fleet:
    """Return a fleet of one process per device.

    Args:
        devices: Device of each process; a device may occur several times.
        lanes: The encoders as built in this process; their failure logs and tallies are filled.
        draw: A module-level function that draws the quality-control image of a slide.
    """
    readers = max(1, count_workers(lanes[0].identity.config.workers) // len(devices))
    settings = [settings_of_lanes(lanes, device, readers, len(devices), draw) for device in devices]
    return Fleet(lanes, [partial(start_process, each) for each in settings], _wait)


def start_process(settings: DeviceSettings) -> DeviceProcess:
    """Start the process of a device."""
    here, there = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-c", _PROGRAM.format(path=sys.path, fd=there.fileno())],
            pass_fds=(there.fileno(),),
            stdin=subprocess.DEVNULL,
            env=os.environ | {"SLPD_PARENT": str(os.getpid())},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
    connection = Connection(here.detach())
    connection.send(settings)
    return DeviceProcess(str(settings.device), process=process, connection=connection)


def _wait(members: Sequence[Member]) -> list[Member]:
    processes = [member for member in members if isinstance(member, DeviceProcess)]
    ready = wait([process.connection for process in processes])
    return [process for process in processes if process.connection in ready]
