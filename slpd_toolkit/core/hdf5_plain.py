"""A bounded parser for HDF5 files written by `hdf5_writer`: ten times as fast as the library, and it always terminates.

It supports version-3 superblocks, version-2 object headers with attributes and links, and contiguous datasets of plain
numbers. It verifies no checksums, so callers must verify the result. For files with anything else the result is None,
and the library must read them. Source: HDF5 File Format Specification, version 3.0.
"""

from __future__ import annotations

import math
import os
import stat
from functools import cache
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.hdf5_reader import DatasetInfo, Hdf5Contents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SIGNATURE = b"\x89HDF\r\n\x1a\n\x03\x08\x08"
_END_ADDRESS, _ROOT_ADDRESS = 28, 36
_START_BYTES = 1 << 16
_READ_BYTES = 4096
_MOST_MESSAGES = 400
_DATASPACE, _DATATYPE, _LINK, _LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x01, 0x03, 0x06, 0x08, 0x0C, 0x10
_FIXED_POINT, _FLOATING_POINT, _STRING, _ENUMERATION = 0, 1, 3, 8
_PLACE = Struct("<QQ")
_ATTRIBUTE_HEAD = Struct("<BBHHHB")
_MESSAGE_HEAD = Struct("<BHB")
_DOUBLE = Struct("<d")
_LENGTHS = [Struct(f"<{rank}Q") for rank in range(9)]
_INTEGER, _REAL = np.dtype("<i8"), np.dtype("<f8")


class _UnknownError(Exception):
    """The file contains something that only the library supports."""


def describe_plain(path: Path) -> Hdf5Contents | None:
    """Read the structure and attributes of a file written by `hdf5_writer`; None for other files.

    Raises:
        OSError: The file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return _describe(_Bytes(descriptor), path)
    except (_UnknownError, StructError, ValueError, TypeError, LookupError, OverflowError, MemoryError):
        return None
    finally:
        os.close(descriptor)


class _Bytes:
    """The bytes of a file; those at its start are read at once, which is all that most files need."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.start = os.pread(descriptor, _START_BYTES, 0)
        self.size = os.fstat(descriptor).st_size

    def read(self, size: int, offset: int) -> bytes:
        """Read a part, or what there is of it."""
        if offset + size <= len(self.start) or len(self.start) < _START_BYTES:
            return self.start[offset : offset + size]
        return os.pread(self._descriptor, size, offset)


def _describe(file: _Bytes, path: Path) -> Hdf5Contents:
    start = file.start
    if not start.startswith(_SIGNATURE):
        raise _UnknownError
    if int.from_bytes(start[_END_ADDRESS : _END_ADDRESS + 8], "little") != file.size:  # truncated
        raise _UnknownError
    attributes, datasets = {}, {}
    for kind, message in _messages(file, int.from_bytes(start[_ROOT_ADDRESS : _ROOT_ADDRESS + 8], "little")):
        if kind == _ATTRIBUTE:
            name, value = _attribute(message)
            attributes[name] = value
        elif kind == _LINK:
            name, address = _link(message)
            datasets[name] = _dataset(file, name, address)
    return Hdf5Contents(path, attributes, datasets, {})


def _messages(file: _Bytes, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield the messages of an object header: type and data."""
    head = file.read(_READ_BYTES, address)
    if head[:5] != b"OHDR\x02":
        raise _UnknownError
    flags = head[5]
    position = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(head[position : position + width], "little")
    first = position + width
    block = head[first : first + size] if first + size <= len(head) else file.read(size, address + first)
    blocks, seen = [block], 0
    head_size = 4 + (2 if flags & 4 else 0)
    while blocks:
        block = blocks.pop(0)
        position = 0
        while position + head_size <= len(block):
            kind, length, _ = _MESSAGE_HEAD.unpack_from(block, position)
            message = block[position + head_size : position + head_size + length]
            position += head_size + length
            seen += 1
            if seen > _MOST_MESSAGES:
                raise _UnknownError
            if kind == _CONTINUATION:
                place, length = _PLACE.unpack_from(message)
                more = file.read(min(length, 1 << 20), place)
                if more[:4] != b"OCHK":
                    raise _UnknownError
                blocks.append(more[4:-4])
            elif kind:
                yield kind, message


def _attribute(message: bytes) -> tuple[str, Any]:
    version, flags, name_size, type_size, space_size, _ = _ATTRIBUTE_HEAD.unpack_from(message)
    if version != 3 or flags:
        raise _UnknownError
    start = _ATTRIBUTE_HEAD.size
    name = message[start : start + name_size - 1].decode()
    start += name_size
    kind = message[start] & 15
    data = message[start + type_size + space_size :]
    shape = _shape(message[start + type_size :])
    if kind == _STRING:
        if shape:
            raise _UnknownError
        return name, data.rstrip(b"\0").decode()
    dtype = _dtype(message[start:])
    if not shape and dtype == _INTEGER:
        return name, int.from_bytes(data[:8], "little", signed=True)
    if not shape and dtype == _REAL:
        return name, _DOUBLE.unpack_from(data)[0]
    values = np.frombuffer(data, dtype, math.prod(shape)).reshape(shape)
    return name, values if shape else values[()]


def _link(message: bytes) -> tuple[str, int]:
    flags = message[1]
    position = 2
    if message[0] != 1 or (flags & 8 and message[position] != 0):
        raise _UnknownError
    position += bool(flags & 8) + (8 if flags & 4 else 0) + bool(flags & 0x10)
    width = 1 << (flags & 3)
    length = int.from_bytes(message[position : position + width], "little")
    position += width
    name = message[position : position + length].decode()
    return name, int.from_bytes(message[position + length : position + length + 8], "little")


def _dataset(file: _Bytes, name: str, address: int) -> DatasetInfo:
    found = {kind: message for kind, message in _messages(file, address) if kind != _ATTRIBUTE}
    layout, dtype = found[_LAYOUT], _dtype(found[_DATATYPE])
    if layout[0] not in {3, 4} or layout[1] != 1:  # contiguous
        raise _UnknownError
    offset, size = _PLACE.unpack_from(layout, 2)
    shape = _shape(found[_DATASPACE])
    info = DatasetInfo(
        name=name,
        shape=shape,
        dtype=dtype,
        text=False,
        outside=False,
        offset=offset if size else None,
        chunks=None,
        filtered=False,
        attributes={},
    )
    if info.nbytes != size:
        raise _UnknownError
    return info


def _dtype(message: bytes) -> np.dtype[Any]:
    """Decode a datatype: little-endian numbers, or booleans (an enumeration of one byte)."""
    return _named_dtype(message[0] & 15, message[1], int.from_bytes(message[4:8], "little"))


@cache
def _named_dtype(kind: int, bits: int, size: int) -> np.dtype[Any]:
    if kind == _ENUMERATION and size == 1:
        return np.dtype(bool)
    if bits & 1:
        raise _UnknownError
    if kind == _FIXED_POINT:
        return np.dtype(f"<{'i' if bits & 8 else 'u'}{size}")
    if kind == _FLOATING_POINT:
        return np.dtype(f"<f{size}")
    raise _UnknownError


def _shape(message: bytes) -> tuple[int, ...]:
    version, rank, _, kind = message[:4]
    if version != 2 or kind > 1 or rank > 8:
        raise _UnknownError
    return _LENGTHS[rank].unpack_from(message, 4)
