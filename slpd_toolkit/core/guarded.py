"""Work in processes that may die: an abort, a hang or a runaway of memory costs one call, and not the command.

Libraries that parse files can end the process (an allocation that fails), never return, or ask for all memory. Called
through a `GuardedPool` they do so in a process of their own. Arguments travel by pickle; arrays in results come back
through shared memory.

A process ends when the process that started it does, however that ends: it waits for the end of a pipe that the kernel
closes. Idle processes are kept for the next pool, and end by themselves after half a minute.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, TypeVarTuple

from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.guarded_process import BEAT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Given = TypeVarTuple("Given")
Made = TypeVar("Made")

_TICK_S = 0.5
_KEEP_BYTES = 16 << 20  # of shared memory; what larger results needed is given back
_TELL_CHARACTERS = 200
_PROGRAM = "import sys; sys.path[:] = {path!r}; from slpd_toolkit.core.guarded_process import serve; serve{settings}"


class ProcessDiedError(SlpdError):
    """The process ended during a call."""


class _LeftError(ProcessDiedError):
    """The process ended by itself."""


class ProcessHungError(SlpdError):
    """The process made no progress, and was ended."""


@dataclass(frozen=True)
class Limits:
    """What a call may use before its process is ended."""

    cpu_s: float = 60.0
    """CPU time without progress (`report_progress`)."""
    wall_s: float = 300.0
    """Time without progress; longer than `cpu_s`, because storage over a network may pause."""
    memory_bytes: int = 8 << 30
    """Address space."""
    niceness: int = 0
    """How far the priority of the process lies below that of this one."""


class GuardedPool:
    """Processes that take calls; it starts as many as there are calls at the same time, and may be used by threads.

    Use it as a context manager: calls that still run when the block ends are ended.

    Args:
        limits: What a call may use.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._busy: set[GuardedProcess] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def busy(self) -> list[GuardedProcess]:
        """The processes that have a call."""
        with self._lock:
            return list(self._busy)

    def close(self) -> None:
        """End all calls that still run; they raise a `ProcessDiedError`, as later ones do."""
        with self._lock:
            self._closed = True
            for process in self._busy:
                process.kill()

    def call(self, function: Callable[[*Given], Made], *arguments: *Given) -> Made:
        """Call a function of a module in a process, and return its result.

        Raises:
            ProcessDiedError: The process ended, or the pool was closed.
            ProcessHungError: It made no progress.
            Exception: Whatever the function raises.
        """
        request = pickle.dumps((function, arguments))
        try:
            made: Made = self._call(request)
        except _LeftError:  # it was idle for long, and left just when the request came
            made = self._call(request)
        return made

    def _call(self, request: bytes) -> Any:
        process = self._take()
        try:
            result = process.call(request, self.limits)
        except (ProcessDiedError, ProcessHungError):
            self._drop(process)
            raise
        except BaseException:
            # Whatever the function raised came back whole; anything else (an interrupt) leaves an answer behind.
            if process.waits:
                self._drop(process)
            else:
                self._give(process)
            raise
        self._give(process)
        return result

    def _take(self) -> GuardedProcess:
        with self._lock:
            if self._closed:
                raise ProcessDiedError("The pool of processes was closed.")
            process = _take_idle(self.limits) or GuardedProcess(self.limits)
            self._busy.add(process)
            return process

    def _give(self, process: GuardedProcess) -> None:
        with self._lock:
            self._busy.discard(process)
        with _IDLE_LOCK:
            _IDLE.setdefault(self.limits, []).append(process)

    def _drop(self, process: GuardedProcess) -> None:
        with self._lock:
            self._busy.discard(process)
        process.close()


_IDLE: dict[Limits, list[GuardedProcess]] = {}
_IDLE_LOCK = threading.Lock()


def _take_idle(limits: Limits) -> GuardedProcess | None:
    with _IDLE_LOCK:
        idle = _IDLE.get(limits, [])
        while idle:
            process = idle.pop()
            if process.alive:
                return process
            process.close()
    return None


@atexit.register
def _end_idle() -> None:
    with _IDLE_LOCK:
        for processes in _IDLE.values():
            for process in processes:
                process.close()
        _IDLE.clear()


class GuardedProcess:
    """One process that takes one call at a time.

    Args:
        limits: Of its memory and priority.
    """

    def __init__(self, limits: Limits) -> None:
        here, there = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._memory, self._said = _shared_memory(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        inherited = (there.fileno(), self._memory.fileno(), lifeline)
        settings = (*inherited, limits.memory_bytes, limits.niceness)
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-c", _PROGRAM.format(path=sys.path, settings=settings)],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=os.environ | one_thread,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            there.close()
            os.close(lifeline)
        self._connection = Connection(here.detach())
        self.waits = False
        """Whether an answer is outstanding."""

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process; the call that runs in it raises a `ProcessDiedError`."""
        self._process.kill()

    def close(self) -> None:
        """End the process and release what it used."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._said.close()
        self._memory.close()
        with suppress(OSError):
            os.close(self._lifeline)

    def call(self, request: bytes, limits: Limits) -> Any:
        """Send a request and return the result: see `GuardedPool.call`."""
        self.waits = True
        try:
            self._connection.send_bytes(request)
            self._wait(limits)
            failed, content, sizes = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, ConnectionError) as error:
            raise (ProcessDiedError if self._process.wait() else _LeftError)(self._cause()) from error
        self.waits = False
        made = pickle.loads(content, buffers=self._buffers(sizes))  # noqa: S301
        if failed:
            raise made
        return made

    def _wait(self, limits: Limits) -> None:
        """Wait for an answer while the process makes progress.

        Time is counted in ticks of this loop: it stands still while this process is stopped.

        Raises:
            ProcessHungError: It makes none.
        """
        beat, wall_s, cpu_before = b"", 0.0, 0.0
        while not self._connection.poll(_TICK_S):
            now = os.pread(self._memory.fileno(), BEAT_BYTES, 0)
            if now != beat:
                beat, wall_s, cpu_before = now, 0.0, _cpu_seconds(self._process.pid)
                continue
            wall_s += _TICK_S
            if wall_s > limits.wall_s:
                raise ProcessHungError(f"no progress within {limits.wall_s:g} s")
            if _cpu_seconds(self._process.pid) - cpu_before > limits.cpu_s:
                raise ProcessHungError(f"no progress within {limits.cpu_s:g} s of computing")

    def _buffers(self, sizes: list[int]) -> list[bytearray]:
        """Copy arrays out of the shared memory."""
        buffers, offset = [], BEAT_BYTES
        for size in sizes:
            buffer = bytearray(size)
            view, done = memoryview(buffer), 0
            while done < size:
                done += os.preadv(self._memory.fileno(), [view[done:]], offset + done)
            offset += size
            buffers.append(buffer)
        if offset > _KEEP_BYTES:
            self._memory.truncate(BEAT_BYTES)
        return buffers

    def _cause(self) -> str:
        """Tell how the process ended, with the last line that it wrote."""
        code = self._process.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "").rpartition(": ")[2]
        return f"ended {how}{f' ({last[:_TELL_CHARACTERS]})' if last else ''}"


def _shared_memory() -> IO[bytes]:
    """Open a file that is in memory where the system can do that."""
    in_memory = getattr(os, "memfd_create", None)  # Linux
    if in_memory is None:
        return tempfile.TemporaryFile(buffering=0)
    return os.fdopen(in_memory("slpd"), "r+b", buffering=0)


def _cpu_seconds(process: int) -> float:
    """Return the CPU time of a process; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
