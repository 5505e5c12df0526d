"""The child process that opens HDF5 files for `hdf5_reader`.

On damaged files the HDF5 library may loop forever, crash or exhaust memory. It runs here, with limits on memory and on
CPU time per request, so that a damaged file ends only this process. The file is run as a script and imports only h5py
and numpy.

Requests are tuples `(operation, path, dataset, refuse_locked)`. The answer is `("ok", value)` or
`("failed", kind, reason)`. The answer of `read` comes after blocks of rows: `("block", first, last)`, then the bytes.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import resource
import signal
import stat
import sys
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

SECONDS = 2.0
"""CPU time of a request, of a block of `read`, or of `_MEMBERS_AT_ONCE` members; intact files take milliseconds."""
_MEMBERS_AT_ONCE = 500
_SECONDS_PER_BYTE = 1e-7
_MEMORY = 4 << 30
_BLOCK_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 30
_SMALL_BYTES = 64 << 20
_LARGEST_RATIO = 100
_ATTRIBUTE_BYTES = 1 << 20
_MOST_MEMBERS = 10_000
_DEPTH = 2
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PLAIN_KINDS = "biuf"
_OS_ERROR = re.compile(r"errno = (\d+)")
# What h5py raises on damaged headers.
_H5PY_ERRORS = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)


class Problem(Exception):  # noqa: N818 - sent to the parent, which raises its own error
    """A file cannot be read: the kind of problem, and a description that fits into `cannot be read (...)`."""


def serve(connection: Connection) -> None:
    """Answer requests until the parent closes the connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    within = [limit for limit in (soft, hard, _MEMORY) if limit != resource.RLIM_INFINITY]
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (min(within), hard))
    connection.send("ready")
    while True:
        try:
            operation, path, name, refuse_locked = connection.recv()
        except EOFError:
            return
        connection.send(_answer(connection, operation, path, name, refuse_locked=refuse_locked))


def _answer(
    connection: Connection, operation: str, path: str, name: str, *, refuse_locked: bool = False
) -> tuple[Any, ...]:
    _limit(SECONDS)
    try:
        with _open(path, refuse_locked=refuse_locked) as file:
            if operation == "describe":
                return "ok", _describe(file)
            if operation == "read":
                return "ok", _read(connection, _dataset(file, name))
            return "ok", _chunk_offsets(_dataset(file, name))
    except Problem as problem:
        return "failed", *problem.args
    except OSError as error:
        return "failed", *_os_problem(error)
    except _H5PY_ERRORS as error:
        return "failed", "damaged", _first_line(error)
    finally:
        _limit(0)


def _limit(seconds: float) -> None:
    """End this process, even inside the library, once it has used this much more CPU time; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


@contextmanager
def _open(path: str, *, refuse_locked: bool) -> Iterator[h5py.File]:
    _examine(path, refuse_locked=refuse_locked)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    identifier = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access)
    try:
        yield h5py.File(identifier)
    finally:
        with suppress(RuntimeError, ValueError):
            identifier.close()


def _examine(path: str, *, refuse_locked: bool) -> None:
    """Run the checks that do not need the library."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Problem("no file", "it is a folder, a device, a pipe or a socket")
        head = os.pread(descriptor, 96, 0)
        if refuse_locked and _is_locked(descriptor):
            raise Problem("in use", "another program has it open for writing")
        if not head.startswith(_SIGNATURE):
            _require_user_block(descriptor, status.st_size)
            return
        end = _end_of_file(head)
        if end is not None and status.st_size < end < 1 << 62:
            raise Problem("cut short", f"it is truncated: it has {status.st_size:,} of {end:,} bytes")
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Return whether another process holds an exclusive lock; False on file systems without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _require_user_block(descriptor: int, size: int) -> None:
    """Check that the HDF5 signature is at byte 512, 1024, 2048, ... if it is not at the start of the file."""
    start = 512
    while start < size:
        if os.pread(descriptor, len(_SIGNATURE), start) == _SIGNATURE:
            return
        start *= 2
    raise Problem("not HDF5", "it is empty" if not size else "it is not an HDF5 file")


def _end_of_file(head: bytes) -> int | None:
    """Return the end-of-file address in the superblock; None for unusual address sizes."""
    version = head[8] if len(head) > 48 else -1
    if version in {0, 1}:
        place = 40 + 4 * version
        sizes = head[13]
    elif version in {2, 3}:
        place, sizes = 28, head[9]
    else:
        return None
    return int.from_bytes(head[place : place + 8], "little") if sizes == 8 else None


def _describe(file: h5py.File) -> tuple[dict[str, Any], dict[str, Any]]:
    members: dict[str, Any] = {}
    _gather(file.id, "", members, _DEPTH)
    return _attributes(file.id), members


def _gather(group: Any, prefix: str, members: dict[str, Any], depth: int) -> None:
    names = [name for name, _ in zip(group, range(_MOST_MEMBERS - len(members)), strict=False)]
    for raw in names:
        if len(members) % _MEMBERS_AT_ONCE == 0:  # files with a dataset for each of thousands of slides take seconds
            _limit(SECONDS)
        name = prefix + raw.decode("utf-8", "replace")
        if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            members[name] = {"kind": "link"}
            continue
        found = h5py.h5o.open(group, raw)
        if isinstance(found, h5py.h5d.DatasetID):
            members[name] = _describe_dataset(found)
        elif isinstance(found, h5py.h5g.GroupID):
            members[name] = {"kind": "group", "attributes": _attributes(found)}
            if depth > 1:
                _gather(found, f"{name}/", members, depth - 1)
            elif found.get_num_objs():
                members[f"{name}/..."] = {"kind": "too deep"}


def _describe_dataset(data: Any) -> dict[str, Any]:
    properties = data.get_create_plist()
    layout = properties.get_layout()
    dtype = data.dtype
    space = data.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return {"kind": "other"}
    outside = layout == h5py.h5d.VIRTUAL or bool(properties.get_external_count())
    block = h5py.h5i.get_file_id(data).get_create_plist().get_userblock()  # offsets reported by HDF5 exclude it
    return {
        "kind": "dataset",
        "shape": tuple(int(length) for length in data.shape),
        "dtype": dtype.str if dtype.kind in _PLAIN_KINDS else None,
        "text": h5py.check_string_dtype(dtype) is not None,
        "outside": outside,
        "offset": data.get_offset() if layout == h5py.h5d.CONTIGUOUS and not outside and not block else None,
        "chunks": properties.get_chunk() if layout == h5py.h5d.CHUNKED else None,
        "filtered": properties.get_nfilters() > 0,
        "attributes": _attributes(data),
    }


def _attributes(holder: Any) -> dict[str, Any]:
    """Return attributes that are numbers, strings or lists of them; other types are skipped."""
    names: list[bytes] = []

    def note(name: bytes, *_: object) -> bool | None:
        names.append(name)
        return True if len(names) >= _MOST_MEMBERS else None

    h5py.h5a.iterate(holder, note)
    values = {
        name: _value(h5py.h5a.open(holder, name)) for name in names
    }  # access by index takes as long for one as for all
    return {name.decode("utf-8", "replace"): value for name, value in values.items() if value is not None}


def _value(attribute: Any) -> Any:
    dtype, space = attribute.dtype, attribute.get_space()
    text = h5py.check_string_dtype(dtype)
    if (dtype.kind not in _PLAIN_KINDS and text is None) or space.get_simple_extent_type() == h5py.h5s.NULL:
        return None
    shape = attribute.shape
    if math.prod(shape) * max(dtype.itemsize, 1) > _ATTRIBUTE_BYTES:
        raise Problem("damaged", f"an attribute claims {math.prod(shape):,} values")
    values = np.empty(shape, dtype)
    attribute.read(values)
    if text is not None:
        texts = [_decoded(value) for value in values.ravel()]
        return texts[0] if not shape else np.array(texts, object).reshape(shape)
    return values if shape else values[()]


def _decoded(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a dataset through hard links only, and check its claimed size against the file."""
    holder = file.id
    for part in name.encode().split(b"/"):
        if holder.links.get_info(part).type != h5py.h5l.TYPE_HARD:
            raise Problem("outside", f"{name!r} is a soft or external link")
        holder = h5py.h5o.open(holder, part)
    data = h5py.Dataset(holder)
    _require_in_file(data, name)
    return data


def _require_in_file(data: h5py.Dataset, name: str) -> None:
    properties = data.id.get_create_plist()
    layout, wanted = properties.get_layout(), math.prod(data.shape) * data.id.get_type().get_size()
    if layout == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise Problem("outside", f"the values of {name!r} are stored in another file")
    if layout == h5py.h5d.COMPACT or not wanted:
        return
    held, size = data.id.get_storage_size(), Path(data.file.filename).stat().st_size
    if layout == h5py.h5d.CONTIGUOUS:
        offset = data.id.get_offset()
        if offset is None or held < wanted or offset + wanted > size:
            raise Problem("damaged", f"{name!r} claims {wanted:,} bytes, more than the file holds")
        return
    chunk = math.prod(properties.get_chunk()) * data.id.get_type().get_size()
    filtered = properties.get_nfilters() > 0
    most = max(_SMALL_BYTES, held * _LARGEST_RATIO) if filtered else held
    if held > size or wanted > most:
        raise Problem("damaged", f"{name!r} claims {wanted:,} bytes, but the file holds {held:,}")
    if chunk > _CHUNK_BYTES:
        raise Problem("damaged", f"{name!r} is stored in chunks of {chunk:,} bytes")
    _limit(SECONDS + 1e-5 * wanted / max(chunk, 1))
    chunks = math.prod(math.ceil(length / side) for length, side in zip(data.shape, data.chunks, strict=True))
    if data.id.get_num_chunks() < chunks:
        raise Problem("damaged", f"{name!r} has only {data.id.get_num_chunks():,} of {chunks:,} chunks")


def _read(connection: Connection, data: h5py.Dataset) -> Any:
    """Send numbers in blocks of rows; return strings as one list."""
    if h5py.check_string_dtype(data.dtype) is not None:
        _limit(SECONDS + _SECONDS_PER_BYTE * data.id.get_storage_size())
        return np.array([_decoded(value) for value in np.ravel(data[()])], object).reshape(data.shape)
    if data.dtype.kind not in _PLAIN_KINDS:
        raise Problem("damaged", f"{data.name!r} holds {data.dtype}, not numbers")
    if not data.shape or not data.size:
        return data[()]
    row_bytes = data.dtype.itemsize * math.prod(data.shape[1:])
    step = max(1, _BLOCK_BYTES // row_bytes)
    if data.chunks:
        step = math.ceil(step / data.chunks[0]) * data.chunks[0]
    connection.send(("shape", data.shape, data.dtype.str))
    for first in range(0, len(data), step):
        last = min(first + step, len(data))
        _limit(SECONDS + _SECONDS_PER_BYTE * row_bytes * (last - first))
        block: npt.NDArray[Any] = np.ascontiguousarray(data[first:last])
        connection.send(("block", first, last))
        connection.send_bytes(block.reshape(-1).view(np.uint8).data)
    return None


def _chunk_offsets(data: h5py.Dataset) -> npt.NDArray[np.int64]:
    """Return the byte offset of each row, for chunks of one row; -1 for rows never written."""
    offsets = np.full(len(data), -1, np.int64)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    _limit(SECONDS + 1e-4 * len(data))
    data.id.chunk_iter(note)
    return offsets


def _os_problem(error: OSError) -> tuple[str, str]:
    """Distinguish errors of the operating system from errors of the library."""
    told = _OS_ERROR.search(str(error))
    number = error.errno or (int(told[1]) if told else 0)
    if number in {errno.ENOENT, errno.ENOTDIR}:
        return "missing", "no such file"
    if number in {errno.EACCES, errno.EPERM}:
        return "no permission", "permission denied"
    if number in {errno.ENXIO, errno.ENODEV, errno.EISDIR}:
        return "no file", "it is a folder, a device, a pipe or a socket"
    if number:
        return "not readable now", os.strerror(number)
    return "damaged", _first_line(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
