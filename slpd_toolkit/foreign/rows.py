"""Features on disk, read a few rows at a time at disk speed, for any HDF5 layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.hdf5_reader import Hdf5Error, chunk_offsets, describe_hdf5, read_hdf5
from slpd_toolkit.core.text import count

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.hdf5_reader import DatasetInfo, Hdf5Contents
    from slpd_toolkit.foreign.features import Rows


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
    """Uncompressed rows at arbitrary offsets of a file.

    TRIDENT and CLAM store each row as a separate chunk, for which HDF5 takes about 5 us: a few hundred MB/s at best,
    and a fifth of that for narrow rows. Here the file is memory-mapped, and rows are gathered by one indexing
    operation.

    Args:
        path: The file.
        offsets: (N,) offset of each row, bytes.
        width: Number of features per row.
        dtype: Type of the features.
    """

    def __init__(self, path: Path, offsets: npt.NDArray[np.int64], width: int, dtype: np.dtype[Any]) -> None:
        self.shape: tuple[int, int] = (len(offsets), width)
        self._offsets, self._dtype = offsets, dtype
        length = width * dtype.itemsize
        data = np.memmap(path, np.uint8, "r")
        if offsets.max() + length > len(data):
            raise ValueError(f"rows are beyond the end of the file ({count(len(data), 'byte')})")
        self._windows = np.lib.stride_tricks.as_strided(data, (len(data) - length + 1, length), (1, 1), writeable=False)

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""
        return self._windows[self._offsets[index]].view(self._dtype)


class PackedRows:
    """Compressed rows, which are all read on first access.

    Several slides may be open at a time, but only the features of the one being written are in memory.

    Args:
        path: The file.
        name: The dataset.
        shape: (N, D).
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._path, self._name = path, name
        self._array: npt.NDArray[np.floating] | None = None

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""
        if self._array is None:
            self._array = read_h5(self._path, self._name)
        rows: npt.NDArray[np.floating] = self._array[index]
        return rows


def open_h5(path: Path) -> Hdf5Contents:
    """Read the structure and the attributes of an HDF5 file.

    Raises:
        SlideError: It cannot be read, for example because it is damaged, truncated, or open for writing elsewhere.
    """
    try:
        return describe_hdf5(path, refuse_locked=True)
    except Hdf5Error as error:
        raise _slide_error(error) from error


def read_h5(path: Path, name: str) -> npt.NDArray[Any]:
    """Read a dataset.

    Raises:
        SlideError: It cannot be read, or claims values that the file does not contain.
    """
    try:
        return read_hdf5(path, name)
    except Hdf5Error as error:
        raise _slide_error(error) from error


def _slide_error(error: Hdf5Error) -> SlideError:
    if error.kind in {"not HDF5", "cut short", "damaged"}:
        return SlideError(error.message, hint="Copy it again, or extract the features of the slide again.")
    return SlideError(error.message, hint=error.hint)


def dataset(file: Hdf5Contents, name: str) -> DatasetInfo:
    """Find a dataset.

    Raises:
        SlideError: There is none with this name, or its values are stored in another file.
    """
    found = file.datasets.get(name)
    if found is None and file.others.get(name) == "link":
        raise SlideError(
            f"{file.path}: {name!r} is a soft or external link, which is not supported.",
            hint="Store the values in the file itself.",
        )
    if found is None:
        raise SlideError(
            f"{file.path} has no dataset {name!r}, only {', '.join(file.names) or 'nothing'}.",
            hint="It may be from another tool; `slpd import DIR` detects the tool.",
        )
    if found.outside:
        raise SlideError(
            f"{file.path}: the values of {name!r} are stored in another file, which is not supported.",
            hint="Store the values in the file itself.",
        )
    return found


def dataset_attributes(file: Hdf5Contents, name: str) -> set[str]:
    """Return the names of the attributes of a dataset; empty if the dataset does not exist."""
    found = file.datasets.get(name)
    return set() if found is None else set(found.attributes)


def open_rows(data: DatasetInfo, path: Path) -> Rows:
    """Open a dataset of features for reading by rows.

    Uncompressed features are not held in memory; compressed ones are, once some are read.

    Raises:
        SlideError: They are not (N, D) floating-point numbers, or some are missing from the file.
    """
    check_features(data.shape, data.dtype, path)
    return _rows(data, path)


def read_pairs(data: DatasetInfo, path: Path) -> npt.NDArray[Any]:
    """Read a dataset of coordinates of any shape.

    Raises:
        SlideError: It cannot be read, or claims values that the file does not hold.
    """
    if len(data.shape) != 2 or data.dtype is None or data.dtype.kind not in "iuf" or 0 in data.shape:
        return read_h5(path, data.name)
    rows = _rows(data, path)
    return read_h5(path, data.name) if isinstance(rows, PackedRows) else rows.take(np.arange(data.shape[0]))


def check_features(shape: tuple[int, ...], dtype: np.dtype[Any] | None, path: Path) -> None:
    """Check that features are (N, D) floating-point numbers, and not empty.

    Raises:
        SlideError: They are not.
    """
    if len(shape) != 2 or dtype is None or dtype.kind != "f":
        raise SlideError(
            f"{path}: features are {shape} {dtype or 'of another type'}, expected (N, D) floating-point numbers.",
            hint="Only patch features can be imported, not features of whole slides.",
        )
    if 0 in shape:
        raise SlideError(
            f"{path} contains no patches: features are {shape}.",
            hint="Check that tissue was found, and extract the features again.",
        )


def _rows(data: DatasetInfo, path: Path) -> Rows:
    rows, width = data.shape
    dtype = data.dtype
    assert dtype is not None
    plain = not data.filtered and dtype.isnative
    try:
        if plain and data.offset is not None:
            return ArrayRows(np.memmap(path, dtype, "r", data.offset, (rows, width)))
        if plain and data.chunks == (1, width):
            return ScatteredRows(path, _row_offsets(data, path), width, dtype)
    except Hdf5Error as error:
        raise _slide_error(error) from error
    except (OSError, ValueError) as error:
        raise SlideError(
            f"{path} cannot be read as HDF5 ({error}).", hint="Copy it again, or extract the slide's features again."
        ) from error
    return PackedRows(path, data.name, (rows, width))


def _row_offsets(data: DatasetInfo, path: Path) -> npt.NDArray[np.int64]:
    """Return the offset of each row in the file, bytes; raise an error if the file is too small for all rows."""
    size = path.stat().st_size
    if data.nbytes > size:
        raise ValueError(f"{data.name!r} claims {data.nbytes:,} bytes, but the file has {size:,}")
    offsets = chunk_offsets(path, data.name)
    if offsets.min() < 0:
        raise ValueError(
            f"{int((offsets < 0).sum()):,} of {count(len(offsets), 'row')} of {data.name!r} were never written"
        )
    return offsets
