"""Features on disk, read a few rows at a time at the disk's speed, however their HDF5 file is laid out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from slpd_toolkit.core.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.foreign.features import Rows

# What h5py raises where bytes of a header are wrong, or where something else stands under a name.
DAMAGES = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)


class ArrayRows:
    """Rows of an array in memory or of a memory map.

    Args:
        array: (N, D) floating.
    """

    def __init__(self, array: npt.NDArray[np.floating]) -> None:
        self._array = array
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""
        return self._array[index]


class ScatteredRows:
    """Rows that lie anywhere in a file, uncompressed.

    TRIDENT and CLAM store each row as a chunk of its own, and HDF5 needs some 5 us for each: a few hundred MB/s at
    best, a fifth of it for narrow rows. Here the file is mapped, and one indexing of all windows of a row's length
    fetches the rows by where they begin.

    Args:
        path: The file.
        offsets: (N,) where each row begins, bytes.
        width: Features of a row.
        dtype: Their type.
    """

    def __init__(self, path: Path, offsets: npt.NDArray[np.int64], width: int, dtype: np.dtype[Any]) -> None:
        self.shape: tuple[int, int] = (len(offsets), width)
        self._offsets, self._dtype = offsets, dtype
        length = width * dtype.itemsize
        data = np.memmap(path, np.uint8, "r")
        if offsets.max() + length > len(data):
            raise ValueError(f"rows lie beyond the end of the file, {len(data):,} bytes")
        self._windows = np.lib.stride_tricks.as_strided(data, (len(data) - length + 1, length), (1, 1), writeable=False)

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""
        return self._windows[self._offsets[index]].view(self._dtype)


class PackedRows:
    """Rows that lie compressed in a file: all are read when the first are asked for, and no earlier.

    Several slides may be open at a time; memory holds the features of the one that is being written.

    Args:
        path: The file.
        name: Its dataset.
        shape: N and D.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._path, self._name = path, name
        self._array: npt.NDArray[np.floating] | None = None

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""
        if self._array is None:
            with open_h5(self._path) as file:
                self._array = np.asarray(file[self._name][...])
        rows: npt.NDArray[np.floating] = self._array[index]
        return rows


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        SlideError: It is none, was cut short, or turns out to be damaged while it is read in the block.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DAMAGES as error:
        raise SlideError(
            f"{path} cannot be read as HDF5 ({next(iter(str(error).splitlines()), type(error).__name__)}).",
            hint="It is damaged or was cut short: copy it again, or extract the slide's features again.",
        ) from error


def dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Find a dataset.

    Raises:
        SlideError: There is none of that name.
    """
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise SlideError(
            f"{path} has no dataset {name!r}, only {', '.join(sorted(file)) or 'nothing'}.",
            hint="Is it of this tool? `slpd import DIR` finds the tool by itself.",
        )
    return found


def open_rows(data: h5py.Dataset, path: Path) -> Rows:
    """Make a dataset of features readable by rows, after its file is closed too.

    Memory holds nothing of features that are stored plainly, and all of those that are compressed once some are read.

    Raises:
        SlideError: They are no (N, D) floating-point numbers.
    """
    check_features(data.shape, data.dtype, path)
    return _rows(data, path)


def read_pairs(data: h5py.Dataset, path: Path) -> npt.NDArray[Any]:
    """Read a dataset of coordinates, whatever it holds."""
    if data.ndim != 2 or data.dtype.kind not in "iuf" or 0 in data.shape:
        return np.asarray(data[...])
    return _rows(data, path).take(np.arange(len(data)))


def check_features(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    """Check that features are (N, D) floating-point numbers, and that there are some.

    Raises:
        SlideError: They are not.
    """
    if len(shape) != 2 or dtype.kind != "f":
        raise SlideError(
            f"{path}: features are {shape} {dtype}, expected (N, D) floating-point numbers.",
            hint="Are they patch features? Those of whole slides cannot be placed.",
        )
    if 0 in shape:
        raise SlideError(
            f"{path} holds no patches: features are {shape}.",
            hint="Extract the slide's features again; was tissue found on it?",
        )


def _rows(data: h5py.Dataset, path: Path) -> Rows:
    rows, width = data.shape
    filters = data.id.get_create_plist().get_nfilters()
    plain = not filters and not data.external and data.dtype.isnative and not data.file.userblock_size
    offset = data.id.get_offset()
    if plain and offset is not None:
        return ArrayRows(np.memmap(path, data.dtype, "r", offset, (rows, width)))
    if plain and data.chunks == (1, width):
        offsets = _chunk_offsets(data)
        if offsets.min() >= 0:
            return ScatteredRows(path, offsets, width, data.dtype)
    return PackedRows(path, data.name, (rows, width))


def _chunk_offsets(data: h5py.Dataset) -> npt.NDArray[np.int64]:
    """Where each row begins in the file, bytes, where each is a chunk; -1 where it was never written."""
    offsets = np.full(len(data), -1, np.int64)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    data.id.chunk_iter(note)
    return offsets
