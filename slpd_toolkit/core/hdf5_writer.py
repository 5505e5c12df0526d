"""Writing HDF5 files: the library lays out the file in memory, and plain system calls write it.

HDF5 never writes to the disk itself, because on a full disk it cannot close its file and later crashes the process.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from slpd_toolkit.core.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from _typeshed import ReadableBuffer, WriteableBuffer

_ALIGNMENT = 64  # bytes: arrays are aligned so that they can be memory-mapped
_COMPACT_ATTRIBUTES = 64
"""Up to this number, attributes are stored in the header itself, which has a checksum."""


@dataclass
class Layout:
    """The bytes of an HDF5 file except those of reserved datasets."""

    parts: Mapping[int, bytes] = field(default_factory=dict)
    """Offset -> bytes, in the order of writing: where two overlap, the later one wins."""
    size: int = 0
    """Size of the file, in bytes."""
    offsets: dict[str, int] = field(default_factory=dict)
    """Reserved dataset -> byte offset of its values in the file; 0 for empty datasets."""


class LayoutBuilder:
    """An HDF5 file being laid out in memory; see `describe_layout`.

    Args:
        file: The file, for h5py.
        offsets: Filled with the reserved datasets.
    """

    def __init__(self, file: h5py.File, offsets: dict[str, int]) -> None:
        self.file = file
        self._offsets = offsets

    def reserve(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
        """Create a contiguous dataset and reserve its space; the values are written later by plain system calls."""
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)
        kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
        data = h5py.Dataset(h5py.h5d.create(self.file.id, name.encode(), kind, space, properties))
        self._offsets[name] = data.id.get_offset() or 0
        return data

    def group(self, name: str) -> h5py.Group:
        """Create a group."""
        properties = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        properties.set_obj_track_times(False)
        return h5py.Group(h5py.h5g.create(self.file.id, name.encode(), gcpl=properties))


@contextmanager
def describe_layout(layout: Layout) -> Iterator[LayoutBuilder]:
    """Lay out a file with h5py in the block; `layout` is filled in at the end of the block.

    Objects have no times, so that the same content is the same bytes.
    """
    image = _SparseFile()
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    creation.set_attr_phase_change(_COMPACT_ATTRIBUTES, _COMPACT_ATTRIBUTES)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_alignment(1, _ALIGNMENT)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, image)
    with h5py.File(h5py.h5f.create(b"in memory", h5py.h5f.ACC_TRUNC, creation, access)) as file:
        yield LayoutBuilder(file, layout.offsets)
    layout.parts, layout.size = image.parts, image.size


def write_hdf5(
    path: Path,
    attributes: Mapping[str, Any],
    datasets: Mapping[str, npt.ArrayLike],
    groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a file atomically.

    Args:
        path: The file.
        attributes: Its attributes: strings, numbers, arrays of numbers.
        datasets: Name -> values: numbers, or one-dimensional strings. `group/name` puts them into a group.
        groups: Name -> attributes of a group.

    Raises:
        OSError: The file cannot be written (disk full, quota); the message names the file.
    """
    layout, arrays = Layout(), {name: fixed_length(values) for name, values in datasets.items()}
    with describe_layout(layout) as made:
        made.file.attrs.update(fixed_length_attributes(attributes))
        for name, about in (groups or {}).items():
            made.group(name).attrs.update(fixed_length_attributes(about))
        for name, values in arrays.items():
            made.reserve(name, values.shape, values.dtype)
    write_layout(path, layout, arrays)


def write_layout(path: Path, layout: Layout, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a laid-out file and the values of its reserved datasets, atomically.

    Raises:
        OSError: The file cannot be written (disk full, quota); the message names the file.
    """
    with atomic_path(path) as partial, partial.open("r+b") as file:
        file.truncate(layout.size)
        for offset, data in layout.parts.items():
            file.seek(offset)
            file.write(data)
        for name, values in arrays.items():
            if values.size:
                file.seek(layout.offsets[name])
                file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def fixed_length(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Convert strings to fixed-length UTF-8, which needs no heap in the file; numbers are unchanged."""
    array = np.asarray(values)
    if array.dtype.kind not in "OU":
        return array
    return _encoded(array.ravel().tolist()).reshape(array.shape)


def fixed_length_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert string attributes to fixed-length UTF-8."""
    return {
        name: _encoded([value])[0:1].reshape(()) if isinstance(value, str) else value
        for name, value in attributes.items()
    }


def _encoded(texts: Sequence[str]) -> npt.NDArray[Any]:
    encoded = [str(text).encode() for text in texts]
    length = max(map(len, encoded), default=0) or 1
    return np.array(encoded, h5py.string_dtype("utf-8", length))


class _SparseFile(io.RawIOBase):
    """An in-memory file that stores only the bytes written, so that reserved gigabytes of tokens take no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[int, bytes] = {}
        self.size = 0
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: ReadableBuffer) -> int:
        copy = bytes(data)
        self.parts.pop(self._position, None)  # parts stay in the order of writing
        self.parts[self._position] = copy
        self._position += len(copy)
        self.size = max(self.size, self._position)
        return len(copy)

    def readinto(self, buffer: WriteableBuffer) -> int:
        into = memoryview(buffer).cast("B")
        first, last = self._position, min(self._position + len(into), self.size)
        into[:] = bytes(len(into))
        for start, data in self.parts.items():
            begin, end = max(start, first), min(start + len(data), last)
            if begin < end:
                into[begin - first : end - first] = data[begin - start : end - start]
        self._position = max(first, last)
        return self._position - first

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size
