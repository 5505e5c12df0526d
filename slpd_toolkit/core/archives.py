"""Zip archives of arrays (.npz, .pt): verifies checksums, and checks claimed sizes against the file size."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.files import require_regular

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

_SMALL_BYTES = 64 << 20
_LARGEST_RATIO = 100
"""Largest plausible compression ratio of features or weights, checked beyond `_SMALL_BYTES`."""
_PART_BYTES = 4 << 20
_ZIP_START = b"PK\x03\x04"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)


class ArchiveError(ValueError):
    """An archive is damaged or claims more than its file can hold; the message fits into `cannot be read (...)`."""


def is_zip(path: Path) -> bool:
    """Return whether a file starts with the zip signature.

    Raises:
        OSError: It cannot be read.
    """
    require_regular(path)
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def check_zip(path: Path) -> None:
    """Verify the CRC-32 of every member of a zip archive. Reads the whole file.

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
    except _ZIP_ERRORS as error:
        raise _archive_error(error) from error


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an .npz file.

    Raises:
        ArchiveError: The file is not an .npz file, is damaged, contains Python objects or anything else that is not an
            array, or claims more data than it holds.
        OSError: The file cannot be read.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for member in _members(archive, path):
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = _read_array(stream, member)
            return arrays
    except _ZIP_ERRORS as error:
        raise _archive_error(error) from error


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    name, times = next(iter(Counter(member.filename for member in members).most_common(1)), ("", 0))
    if times > 1:
        raise ArchiveError(f"it has several members {name!r}")
    size = path.stat().st_size
    claimed, stored = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if stored > size:
        raise ArchiveError(f"its members claim {stored:,} bytes, but the file has only {size:,}")
    if claimed > max(_SMALL_BYTES, _LARGEST_RATIO * size):
        raise ArchiveError(f"it claims {claimed:,} bytes, compressed to {size:,}")
    return members


def _read_array(stream: IO[bytes], member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Read one .npy member, whose header must match its size."""
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError as error:
        raise ArchiveError(f"its member {member.filename!r} is not an array") from error
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ArchiveError(f"its member {member.filename!r} has the unknown .npy version {version}")
    shape, by_columns, dtype = read_header(stream)
    if dtype.hasobject:
        raise ArchiveError(f"its member {member.filename!r} contains Python objects")
    wanted, left = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if wanted != left:
        raise ArchiveError(f"its member {member.filename!r} claims {wanted:,} bytes but has {left:,}")
    raw = bytearray(stream.read())  # up to the end, where zipfile checks the CRC
    if len(raw) != wanted:
        raise ArchiveError(f"its member {member.filename!r} is truncated")
    array = np.frombuffer(raw, dtype) if wanted else np.empty(math.prod(shape), dtype)
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


def _archive_error(error: Exception) -> ArchiveError:
    if isinstance(error, ArchiveError):
        return error
    return ArchiveError(next(iter(str(error).splitlines()), "") or type(error).__name__)
