"""Embedding on several devices: one process per device, and a common queue of slides.

If a process ends unexpectedly, the slides that it was working on are put back into the queue.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError, SlpdError
from slpd_toolkit.ingest.embedding.device_process import DeviceSettings
from slpd_toolkit.ingest.embedding.readers import count_workers
from slpd_toolkit.ingest.embedding.tally import EmbedTally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.ingest.embedding.lane import Lane
    from slpd_toolkit.slides.plan import SlidePlan

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from slpd_toolkit.ingest.embedding.device_process import serve; serve({fd})"
)
_TRIES = 2
"""Maximum number of attempts per slide; a slide whose process ends each time has failed."""
_RESTARTS = 3
"""Maximum number of restarts of the process of a device."""


@dataclass(eq=False)
class DeviceProcess:
    """The process of one device."""

    device: torch.device
    process: subprocess.Popen[bytes]
    connection: Connection
    tallies: list[EmbedTally]
    held: dict[str, SlideEntry] = field(default_factory=dict)
    """Slides that it has received and not finished."""
    over: Counter[str] = field(default_factory=Counter)
    """Slide ID -> encoders that have finished it."""
    waits: bool = False
    """Whether it is waiting for slides."""

    def give(self, entry: SlideEntry | None) -> None:
        """Send a slide, or None for no slide."""
        self.waits = False
        if entry is not None:
            self.held[entry.slide_id] = entry
        with suppress(OSError):  # it has ended, which is noticed when its messages are read
            self.connection.send(entry)

    def end(self) -> None:
        """Kill the process if it is running."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


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
    return DeviceProcess(settings.device, process, connection, [EmbedTally() for _ in settings.configs])


class DeviceFleet:
    """Embeds slides on several devices.

    Args:
        devices: Device of each process; a device may occur several times.
        lanes: The encoders as built in this process; their failure logs and tallies are filled.
        draw: A module-level function that draws the quality-control image of a slide.
    """

    def __init__(
        self, devices: Sequence[torch.device], lanes: Sequence[Lane], draw: Callable[[Path, SlidePlan], None]
    ) -> None:
        self._lanes, self._devices = lanes, devices
        self._queue: deque[SlideEntry] = deque()
        self._tries: Counter[str] = Counter()
        self._restarts: Counter[str] = Counter()
        self._processes: list[DeviceProcess] = []
        readers = max(1, count_workers(lanes[0].identity.config.workers) // len(devices))
        self._settings = [
            DeviceSettings(
                device=device,
                configs=[lane.identity.config for lane in lanes],
                geometries=[lane.identity.geometry for lane in lanes],
                precisions=[lane.identity.precision for lane in lanes],
                digests=[lane.identity.encoder.weights_sha256 for lane in lanes],
                views=[lane.identity.view for lane in lanes],
                readers=readers,
                share=len(devices),
                draw=draw,
            )
            for device in devices
        ]

    def run(self, entries: Sequence[SlideEntry]) -> None:
        """Embed slides; those that fail are recorded, and the others continue.

        Raises:
            SlpdError: A process cannot work (weights, memory of the device), or those of all devices keep ending.
        """
        self._queue.extend(entries)
        self._processes = [start_process(settings) for settings in self._settings[: max(1, len(entries))]]
        try:
            with console.progress("embed", total=1, unit="patches") as progress:
                done_before = 0
                while self._processes:
                    ready = wait([process.connection for process in self._processes])
                    for process in [each for each in self._processes if each.connection in ready]:
                        self._attend(process)
                    self._serve_waiting()
                    tallies = self._merge_tallies()
                    patches = sum(tally.patches for tally in tallies)
                    expected = [
                        tally.expected_patches(len(entries), len(lane.failures))
                        for tally, lane in zip(tallies, self._lanes, strict=True)
                    ]
                    progress.expect(sum(expected))
                    done = min(tally.slides + tally.skipped for tally in tallies)
                    progress.advance(patches - done_before, f"{done}/{len(entries)} slides")
                    done_before = patches
        finally:
            for process in self._processes:
                process.end()
        if self._queue:
            raise SlpdError(
                f"The processes of all devices ended; {len(self._queue):,} slides are left.",
                hint="They may have run out of memory. Run the same command again, with a smaller --batch-size.",
            )

    def _attend(self, process: DeviceProcess) -> None:
        """Handle one message of a process, or its end."""
        try:
            kind, *content = process.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._bury(process)
            return
        self._handle(process, kind, content)

    def _handle(self, process: DeviceProcess, kind: str, content: list[Any]) -> None:
        if kind == "next":
            process.give(self._queue.popleft() if self._queue else None)
        elif kind == "idle":
            process.waits = True
        elif kind == "over":
            (slide_id,) = content
            process.over[slide_id] += 1
            if process.over[slide_id] == len(self._lanes):
                process.held.pop(slide_id, None)
        elif kind == "failed":
            lane, failure = content
            self._lanes[lane].failures.add(failure)
        elif kind == "tallies":
            (process.tallies,) = content
        else:
            assert kind == "error"
            raise content[0]

    def _serve_waiting(self) -> None:
        """Send slides to waiting processes; end them when no slides are left."""
        for process in [each for each in self._processes if each.waits]:
            if self._queue:
                process.give(self._queue.popleft())
        if not self._queue and not any(process.held for process in self._processes):
            for process in self._processes:
                if process.waits:
                    process.give(None)

    def _bury(self, process: DeviceProcess) -> None:
        """Put the slides of an ended process back into the queue, and restart it if there is work left."""
        process.end()
        self._processes.remove(process)
        for lane, tally in zip(self._lanes, process.tallies, strict=True):
            lane.tally.add(tally)
        for slide_id, entry in reversed(process.held.items()):
            self._tries[slide_id] += 1
            if self._tries[slide_id] < _TRIES:
                self._queue.appendleft(entry)
                continue
            error = SlideError(
                f"{entry.slide_path}: the process that embedded it ended {_TRIES} times.",
                hint="Memory may have run out; embed it alone, with a smaller --batch-size.",
            )
            for lane in self._lanes:
                lane.record(entry, error)
        if process.held:
            console.warn(
                f"The process on {process.device} ended ({process.process.returncode}); "
                f"the {len(process.held)} slides that it held are done again."
            )
        name = str(process.device)
        if self._queue and self._restarts[name] < _RESTARTS:
            self._restarts[name] += 1
            settings = next(each for each in self._settings if each.device == process.device)
            self._processes.append(start_process(settings))

    def _merge_tallies(self) -> list[EmbedTally]:
        """Sum the counts of all processes, including those that have ended."""
        merged = []
        for index, lane in enumerate(self._lanes):
            total = EmbedTally()
            for tally in [lane.tally, *(process.tallies[index] for process in self._processes)]:
                total.add(tally)
            merged.append(total)
        return merged
