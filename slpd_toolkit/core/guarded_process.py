"""The process behind `core.guarded`: takes calls until the program that started it ends."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

BEAT_BYTES = 8
"""Bytes at the beginning of the shared memory that count steps of work."""
_IDLE_S = 30.0

_state: dict[str, int] = {"memory": -1, "beat": 0}


def report_progress() -> None:
    """Tell the program that waits that the work advances; outside of such a process it does nothing."""
    if _state["memory"] >= 0:
        _state["beat"] += 1
        os.pwrite(_state["memory"], _state["beat"].to_bytes(BEAT_BYTES, "little"), 0)


def serve(connection: int, memory: int, lifeline: int, memory_bytes: int, niceness: int) -> None:
    """Answer calls until nobody asks for half a minute, or the other end is gone.

    Args:
        connection: Descriptor of the socket that requests come from.
        memory: Descriptor of the shared memory.
        lifeline: Descriptor of a pipe that the kernel closes when the starting program ends.
        memory_bytes: Largest address space.
        niceness: What is added to the niceness.
    """
    Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    with suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort is expected here, and its core is of no use
    with suppress(OSError):
        os.nice(niceness)
    _state["memory"] = memory
    requests = Connection(connection)
    while requests.poll(_IDLE_S):
        try:
            request = requests.recv_bytes()
        except EOFError:
            break
        report_progress()
        requests.send_bytes(_answer(request, memory))
    os._exit(0)


def _answer(request: bytes, memory: int) -> bytes:
    """Do what a request asks for; arrays of the result go into the shared memory."""
    failed, made = _call(request)
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
    except Exception:  # noqa: BLE001 - an exception that cannot travel goes as text
        failed, content, buffers = True, pickle.dumps(RuntimeError(f"{type(made).__name__}: {made}")), []
    sizes, offset = [], BEAT_BYTES
    for buffer in buffers:
        view = buffer.raw()
        done = 0
        while done < view.nbytes:
            done += os.pwrite(memory, view[done:], offset + done)
        offset += view.nbytes
        sizes.append(view.nbytes)
    return pickle.dumps((failed, content, sizes))


def _call(request: bytes) -> tuple[bool, Any]:
    """Return whether the call failed, and its result or exception."""
    try:
        function, arguments = pickle.loads(request)  # noqa: S301 - from the program that started this one
        return False, function(*arguments)
    except MemoryError:
        gc.collect()
        return True, MemoryError(f"more than {resource.getrlimit(resource.RLIMIT_AS)[0] / 2**30:.0f} GiB of memory")
    except Exception as error:  # noqa: BLE001 - raised where it was called
        error.__traceback__ = None
        return True, error


def _end_with(lifeline: int) -> None:
    """End this process when the one that started it has ended, even in the midst of a call."""
    with suppress(OSError):
        os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)
    sys.exit()
