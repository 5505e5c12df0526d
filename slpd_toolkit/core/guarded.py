"""Calls in isolated processes: an abort, a hang or runaway memory fails one call instead of the whole command.

Libraries that parse files may abort the process (on a failed allocation), hang, or exhaust memory. A `GuardedPool` runs
such calls in separate processes. Arguments are pickled; arrays in results are returned through shared memory.

A child process exits when its parent does, however the parent ends: it watches a pipe that the kernel closes. Idle
processes are kept for the next pool, while the environment variables stay the same, and exit after half a minute.
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
from typing import IO, TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import numpy as np

from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.files import working_folder
from slpd_toolkit.core.guarded_process import BEAT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

Given = TypeVarTuple("Given")
Made = TypeVar("Made")

_TICK_S = 0.5
_KEEP_BYTES = 16 << 20  # of shared memory; memory of larger results is released
_TELL_CHARACTERS = 200
_PROGRAM = "import sys; sys.path[:] = {path!r}; from slpd_toolkit.core.guarded_process import serve; serve{settings}"


class ProcessDiedError(SlpdError):
    """The process ended during a call."""


class _LeftError(ProcessDiedError):
    """The process exited on its own."""


class ProcessHungError(SlpdError):
    """The process made no progress and was killed."""


@dataclass(frozen=True)
class Limits:
    """Resources that a call may use before its process is killed."""

    cpu_s: float = 60.0
    """CPU time without progress (`report_progress`)."""
    wall_s: float = 300.0
    """Wall time without progress; longer than `cpu_s`, because network storage may stall."""
    memory_bytes: int = 8 << 30
    """Size of the address space."""
    niceness: int = 0
    """Niceness added to that of the parent process."""


class GuardedPool(ClosedOnExit):
    """Pool of isolated processes: starts as many as there are concurrent calls. Thread-safe.

    Use it as a context manager: calls still running at the end of the block are killed.

    Args:
        limits: Resources that a call may use.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._busy: set[GuardedProcess] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def busy(self) -> list[GuardedProcess]:
        """Processes that are running a call."""
        with self._lock:
            return list(self._busy)

    def close(self) -> None:
        """Kill all running calls; they and all later calls raise `ProcessDiedError`."""
        with self._lock:
            self._closed = True
            for process in self._busy:
                process.kill()

    def call(self, function: Callable[[*Given], Made], *arguments: *Given) -> Made:
        """Call a module-level function in a process and return its result.

        Raises:
            ProcessDiedError: The process ended, or the pool was closed.
            ProcessHungError: The process made no progress.
            Exception: Any exception raised by the function.
        """
        request = pickle.dumps((function, arguments, working_folder()))
        try:
            made: Made = self._call(request)
        except _LeftError:  # an idle process timed out just as the request arrived
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
            # Exceptions of the function arrive as complete answers; anything else (an interrupt) leaves one unread.
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
            # Credentials set since, in a notebook for example, would not reach a process with the old environment.
            if process.alive and process.environment == dict(os.environ):
                return process
            process.close()
    return None


@atexit.register
def end_idle_processes() -> None:
    """End the processes that wait for calls; later calls start others."""
    with _IDLE_LOCK:
        for processes in _IDLE.values():
            for process in processes:
                process.close()
        _IDLE.clear()


class GuardedProcess:
    """A process that runs one call at a time.

    Args:
        limits: Memory and priority of the process.
    """

    def __init__(self, limits: Limits) -> None:
        here, there = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._memory, self._said = _shared_memory(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        inherited = (there.fileno(), self._memory.fileno(), lifeline)
        settings = (*inherited, limits.memory_bytes, limits.niceness)
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
        self.environment = dict(os.environ)
        """Environment variables of this process when the other started."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-c", _PROGRAM.format(path=sys.path, settings=settings)],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=self.environment | one_thread,
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
        """Process ID."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the process; a call running in it raises `ProcessDiedError`."""
        self._process.kill()

    def close(self) -> None:
        """End the process and release its resources."""
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

        Time is counted in iterations of this loop, so it does not advance while this process is suspended.

        Raises:
            ProcessHungError: The process makes no progress.
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
                raise ProcessHungError(f"no progress within {limits.cpu_s:g} s of CPU time")

    def _buffers(self, sizes: list[int]) -> list[npt.NDArray[np.uint8]]:
        """Copy arrays out of the shared memory."""
        buffers, offset = [], BEAT_BYTES
        for size in sizes:
            buffer = np.empty(size, np.uint8)  # unlike a bytearray, not filled with zeros first
            view, done = buffer.data, 0
            while done < size:
                done += os.preadv(self._memory.fileno(), [view[done:]], offset + done)
            offset += size
            buffers.append(buffer)
        if offset > _KEEP_BYTES:
            self._memory.truncate(BEAT_BYTES)
        return buffers

    def _cause(self) -> str:
        """Describe how the process ended, with the last line that it wrote to standard error."""
        code = self._process.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "").rpartition(": ")[2]
        return f"ended {how}{f' ({last[:_TELL_CHARACTERS]})' if last else ''}"


def _shared_memory() -> IO[bytes]:
    """Open a file, in memory where the system supports it."""
    in_memory = getattr(os, "memfd_create", None)  # Linux
    if in_memory is None:
        return tempfile.TemporaryFile(buffering=0)
    return os.fdopen(in_memory("slpd"), "r+b", buffering=0)


def _cpu_seconds(process: int) -> float:
    """Return the CPU time of a process; 0 where the system does not report it."""
    with suppress(OSError, ValueError, IndexError):
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
