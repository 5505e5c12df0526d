"""Reading HDF5 files in a child process, so that no file can hang, crash or exhaust this one.

Nothing here imports h5py: results arrive as plain Python and NumPy values. Files are never locked.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slpd_toolkit.core.errors import SlpdError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

Kind = Literal[
    "missing",
    "no file",
    "no permission",
    "in use",
    "not readable now",
    "not HDF5",
    "cut short",
    "damaged",
    "outside",
]
"""Why a file cannot be read. Only the last four are faults of the file itself."""


class Hdf5Error(SlpdError):
    """An HDF5 file cannot be read.

    Args:
        path: The file.
        kind: Reason as a value that callers can act on.
        reason: Reason as text for the user.
    """

    def __init__(self, path: Path, kind: Kind, reason: str) -> None:
        super().__init__(f"{path} cannot be read as HDF5 ({reason}).", hint=HINTS[kind])
        self.path, self.kind, self.reason = path, kind, reason


_PROGRAM = __file__.removesuffix("reader.py") + "process.py"

HINTS: Mapping[Kind, str] = {
    "missing": "Check the path, or restore the file.",
    "no file": "Use a regular file.",
    "no permission": "Ask its owner for read permission (`chmod a+r`), then run the same command again.",
    "in use": "Wait until the other program has closed it, then run the same command again.",
    "not readable now": "The file itself may be intact: check the disk or network drive, then run the same command "
    "again.",
    "not HDF5": "It is a different kind of file, or its start was overwritten: copy it again.",
    "cut short": "Copy it again.",
    "damaged": "Copy it again.",
    "outside": "Only values stored in the file itself are read: rewrite it without links and external storage "
    "(`h5repack`).",
}


@dataclass(frozen=True)
class DatasetInfo:
    """Header information of an HDF5 dataset."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    """None for types other than plain numbers."""
    text: bool
    """Whether the values are strings."""
    outside: bool
    """Whether the values are stored in other files."""
    offset: int | None
    """Byte offset of the values, if they are stored contiguously and unfiltered."""
    chunks: tuple[int, ...] | None
    filtered: bool
    """Whether the values are compressed or otherwise filtered."""
    attributes: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Size of all values, in bytes."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 1)


@dataclass(frozen=True)
class Hdf5Contents:
    """Contents of an HDF5 file, down to the members of its groups; values of datasets are read separately."""

    path: Path
    attributes: Mapping[str, Any]
    """Attributes of the file: numbers, strings, and arrays of them."""
    datasets: Mapping[str, DatasetInfo]
    """Datasets by name; `group/name` for members of groups."""
    groups: Mapping[str, Mapping[str, Any]]
    """Attributes of each group."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Names of links and other members, with their kind."""

    @property
    def names(self) -> list[str]:
        """Names at the top level, sorted."""
        return sorted(name for name in (*self.datasets, *self.groups, *self.others) if "/" not in name)


def describe_hdf5(path: Path, *, refuse_locked: bool = False) -> Hdf5Contents:
    """Read the structure and attributes of a file.

    Args:
        path: The file.
        refuse_locked: Refuse a file that another program has locked for writing.

    Raises:
        Hdf5Error: It cannot be read; see `kind`.
    """
    with _process() as process:
        attributes, members = process.ask(path, "describe", refuse_locked=refuse_locked)
    return Hdf5Contents(
        path,
        attributes,
        {name: _dataset_info(name, found) for name, found in members.items() if found["kind"] == "dataset"},
        {name: found["attributes"] for name, found in members.items() if found["kind"] == "group"},
        {name: found["kind"] for name, found in members.items() if found["kind"] not in {"dataset", "group"}},
    )


def read_hdf5(path: Path, name: str) -> npt.NDArray[Any]:
    """Read a dataset. Strings are returned as an array of `str`.

    Raises:
        Hdf5Error: It cannot be read, or claims values that the file does not hold.
    """
    with _process() as process:
        return process.read(path, name)


def digest_of(arrays: Mapping[str, npt.ArrayLike]) -> str:
    """Return a digest of arrays, for an attribute that detects damaged values: HDF5 has checksums of headers only."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        array = np.asarray(values)
        text = array.dtype.kind in "OUS"
        digest.update(f"{name} {array.shape} {'text' if text else array.dtype.str}".encode())
        if text:
            digest.update("\0".join(map(str, array.ravel().tolist())).encode("utf-8", "surrogatepass"))
        else:  # no copy: arrays of a large cohort take a large part of the memory
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def chunk_offsets(path: Path, name: str) -> npt.NDArray[np.int64]:
    """Return the byte offset of each row: (N,), -1 for rows never written. For datasets with chunks of one row.

    Raises:
        Hdf5Error: The dataset cannot be read.
    """
    with _process() as process:
        offsets: npt.NDArray[np.int64] = process.ask(path, "chunk_offsets", name)
    return offsets


def _dataset_info(name: str, found: Mapping[str, Any]) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        shape=found["shape"],
        dtype=None if found["dtype"] is None else np.dtype(found["dtype"]),
        text=found["text"],
        outside=found["outside"],
        offset=found["offset"],
        chunks=found["chunks"],
        filtered=found["filtered"],
        attributes=found["attributes"],
    )


class _Process:
    """A child process, which ends when its connection is closed."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        quiet = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-P", _PROGRAM, str(theirs.fileno())],
                env=os.environ | quiet | {"HDF5_USE_FILE_LOCKING": "FALSE"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is handled by the parent
            )
        try:
            self._connection.recv()
        except EOFError as error:
            raise SlpdError(
                f"The process that reads HDF5 files failed to start (exit code {self.end()}).",
                hint="Is h5py installed? Try: python -c 'import h5py'.",
            ) from error

    def ask(self, path: Path, operation: str, name: str = "", *, refuse_locked: bool = False) -> Any:
        """Send a request and wait for the answer."""
        return self._result(path, self._send(path, operation, name, refuse_locked=refuse_locked))

    def read(self, path: Path, name: str) -> npt.NDArray[Any]:
        """Read a dataset block by block."""
        answer = self._send(path, "read", name)
        if answer[0] != "shape":
            values: npt.NDArray[Any] = np.asarray(self._result(path, answer))
            return values
        found = np.empty(answer[1], np.dtype(answer[2]))
        try:
            while (answer := self._connection.recv())[0] == "block":
                rows = found[answer[1] : answer[2]].reshape(-1).view(np.uint8)
                self._connection.recv_bytes_into(rows.data)
        except (EOFError, OSError) as error:
            raise self._ended(path) from error
        self._result(path, answer)
        return found

    def end(self) -> int:
        """Close the connection, which ends the child, and wait for it; return its exit code."""
        self._connection.close()
        try:
            return self._child.wait(1)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    @property
    def alive(self) -> bool:
        """Whether the process can take another request."""
        return not self._connection.closed

    def _send(self, path: Path, operation: str, name: str, *, refuse_locked: bool = False) -> Any:
        try:
            self._connection.send((operation, str(path.absolute()), name, refuse_locked))
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended(path) from error

    def _result(self, path: Path, answer: tuple[Any, ...]) -> Any:
        if answer[0] == "ok":
            return answer[1]
        raise Hdf5Error(path, answer[1], answer[2])

    def _ended(self, path: Path) -> Hdf5Error:
        code = self.end()
        if code == -signal.SIGPROF:
            return Hdf5Error(path, "damaged", "the HDF5 library does not finish reading it")
        if code == -signal.SIGKILL:
            return Hdf5Error(path, "not readable now", "the process that read it was killed, possibly out of memory")
        return Hdf5Error(path, "damaged", "the HDF5 library crashes on it")


_idle: list[_Process] = []
_lock = threading.Lock()


@contextmanager
def _process() -> Iterator[_Process]:
    """Borrow an idle process or start one; there are as many as concurrent requests."""
    with _lock:
        process = _idle.pop() if _idle else None
    process = process or _Process()
    done = False
    try:
        yield process
        done = True
    except Hdf5Error:
        done = True
        raise
    finally:
        if not done:  # interrupted between request and answer: the process cannot be reused
            process.end()
        elif process.alive:
            with _lock:
                _idle.append(process)


def end_processes() -> None:
    """End the idle child processes."""
    with _lock:
        processes, _idle[:] = list(_idle), []
    for process in processes:
        with suppress(OSError):
            process.end()


atexit.register(end_processes)
os.register_at_fork(after_in_child=_idle.clear)  # they belong to the parent process
