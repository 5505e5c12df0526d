"""The HDF5 structure of a token file with room for its tokens, made in memory.

HDF5 never writes to the disk itself: where the disk is full it cannot close its file, and crashes the process later. So
it describes the file here, and `TokenWriter` writes what it described, and the tokens, with plain system calls.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py

from slpd_toolkit.store import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    from _typeshed import ReadableBuffer, WriteableBuffer

    from slpd_toolkit.store.schema import TokenMeta

_ALIGNMENT = 64  # bytes: arrays begin where a memory map can be used as it is


@dataclass(frozen=True)
class Layout:
    """A token file without its tokens: what stands where, how long the file is, where the tokens begin; bytes."""

    parts: Mapping[int, bytes]
    size: int
    tokens_offset: int


def lay_out(
    meta: TokenMeta,
    coords: npt.NDArray[np.int64],
    tissue: npt.NDArray[np.floating],
    present: npt.NDArray[np.bool_] | None = None,
) -> Layout:
    """Describe a token file.

    Args:
        meta: Its attributes.
        coords: (R, 2), x and y of the regions' top-left corners, level-0 px.
        tissue: (R, grid, grid), tissue fraction of each patch.
        present: (R, grid, grid), which patches have a token; None where all have.
    """
    image = _SparseFile()
    with h5py.File(image, "w", libver="v110", alignment_threshold=1, alignment_interval=_ALIGNMENT) as file:
        file.attrs.update(meta.to_attributes())
        file.create_dataset(schema.COORDS, data=coords, dtype=schema.COORD_DTYPE)
        file.create_dataset(schema.TISSUE, data=tissue, dtype=schema.TISSUE_DTYPE)
        file[schema.COORDS].attrs["unit"] = "x, y of the region's top-left corner, level-0 px"
        file[schema.TISSUE].attrs["unit"] = "tissue fraction of each patch, 0-1"
        if present is not None:
            file.create_dataset(schema.PRESENT, data=present, dtype=schema.PRESENT_DTYPE)
            file[schema.PRESENT].attrs["unit"] = "whether the patch has a token; the others are zeros"
        tokens = _reserve(file, schema.TOKENS, (len(coords), meta.grid, meta.grid, meta.embedding_dim))
        tokens.attrs["layout"] = "region, row, column, feature"
        offset = tokens.id.get_offset() or 0  # None where there is no region
    return Layout(image.parts, image.size, offset)


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """Make a contiguous dataset that has its place in the file at once, and is written to by others."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = h5py.h5t.py_create(schema.TOKEN_DTYPE, logical=True), h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, properties))


class _SparseFile(io.RawIOBase):
    """A file in memory that keeps only what was written, so that the room for gigabytes of tokens costs nothing."""

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
        self.parts.pop(
            self._position, None
        )  # parts stay in the order of writing: where they overlap the last one holds
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
