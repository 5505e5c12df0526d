"""Child process of `core.guarded`: runs calls until the parent process ends."""

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
"""Bytes at the start of the shared memory that hold the progress counter."""
_IDLE_S = 30.0

_state: dict[str, int] = {"memory": -1, "beat": 0}


def report_progress() -> None:
    """Report progress to the waiting parent process; does nothing outside a guarded process."""
    if _state["memory"] >= 0:
        _state["beat"] += 1
        os.pwrite(_state["memory"], _state["beat"].to_bytes(BEAT_BYTES, "little"), 0)


def serve(connection: int, memory: int, lifeline: int, memory_bytes: int, niceness: int) -> None:
    """Answer calls until none arrives for half a minute or the connection is closed.

    Args:
        connection: Descriptor of the socket on which requests arrive.
        memory: Descriptor of the shared memory.
        lifeline: Descriptor of a pipe that the kernel closes when the parent process ends.
        memory_bytes: Limit of the address space.
        niceness: Value added to the niceness.
    """
    Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    with suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # aborts are expected here, and core dumps useless
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
    """Execute a request; arrays in the result are written to the shared memory."""
    failed, made = _call(request)
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
    except Exception:  # noqa: BLE001 - an exception that cannot be pickled is sent as text
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
        function, arguments, folder = pickle.loads(request)  # noqa: S301 - from the parent process
        with suppress(OSError):
            os.chdir(folder)
        return False, function(*arguments)
    except MemoryError:
        gc.collect()
        return True, MemoryError(f"more than {resource.getrlimit(resource.RLIMIT_AS)[0] / 2**30:.0f} GiB of memory")
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        error.__traceback__ = None
        return True, error


def _end_with(lifeline: int) -> None:
    """End this process when its parent has ended, even during a call."""
    with suppress(OSError):
        os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)
    sys.exit()
