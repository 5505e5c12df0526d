"""Zip archives of arrays (.npz, .pt): checksums are verified, and sizes believed only where the file bears them out."""

from __future__ import annotations

import math
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

_SMALL_BYTES = 64 << 20
_LARGEST_RATIO = 100
"""Beyond `_SMALL_BYTES`, no archive of features or weights compresses by more."""
_PART_BYTES = 4 << 20
_ZIP_START = b"PK\x03\x04"
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, LookupError, NotImplementedError, RuntimeError)


class ArchiveError(ValueError):
    """An archive is damaged, or claims more than its file can hold; the message completes `cannot be read (...)`."""


def is_zip(path: Path) -> bool:
    """Whether a file begins as zip archives do.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def check_zip(path: Path) -> None:
    """Compare each member of a zip archive with its CRC-32. Reads the whole file.

    Raises:
        ArchiveError: A member is damaged, or claims more than the file can hold.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive, path):
                with archive.open(member) as stream:
                    while stream.read(_PART_BYTES):
                        pass
    except _DAMAGES as error:
        raise _archive_error(error) from error


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an .npz file.

    Raises:
        ArchiveError: It is not an .npz file, is damaged, holds Python objects or something other than arrays, or claims
            more than it holds.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for member in _members(archive, path):
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = _read_array(stream, member)
            return arrays
    except _DAMAGES as error:
        raise _archive_error(error) from error


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    size = path.stat().st_size
    claimed, stored = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if stored > size:
        raise ArchiveError(f"its members claim {stored:,} bytes of a file of {size:,}")
    if claimed > max(_SMALL_BYTES, _LARGEST_RATIO * size):
        raise ArchiveError(f"it claims {claimed:,} bytes, compressed into {size:,}")
    return members


def _read_array(stream: IO[bytes], member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Read one .npy member, whose header must fit its size."""
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError as error:
        raise ArchiveError(f"{member.filename!r} in it is not an array") from error
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ArchiveError(f"{member.filename!r} in it is of .npy version {version}")
    shape, by_columns, dtype = read_header(stream)
    if dtype.hasobject:
        raise ArchiveError(f"{member.filename!r} in it holds Python objects")
    wanted, left = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if wanted != left:
        raise ArchiveError(f"{member.filename!r} in it claims {wanted:,} bytes and has {left:,}")
    raw = bytearray(stream.read())  # to the end, where its CRC is compared
    if len(raw) != wanted:
        raise ArchiveError(f"{member.filename!r} in it was cut short")
    array = np.frombuffer(raw, dtype) if wanted else np.empty(math.prod(shape), dtype)
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


def _archive_error(error: Exception) -> ArchiveError:
    if isinstance(error, ArchiveError):
        return error
    return ArchiveError(next(iter(str(error).splitlines()), "") or type(error).__name__)
