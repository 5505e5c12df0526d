"""Reading and checking the header of a token file: everything except the tokens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.hdf5_plain import describe_plain
from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5
from slpd_toolkit.core.version import is_version
from slpd_toolkit.store import schema
from slpd_toolkit.store.schema import REWRITE, TokenMeta

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.hdf5_reader import DatasetInfo, Hdf5Contents, Kind

_HINTS: Mapping[Kind, str] = {
    "not HDF5": REWRITE,
    "damaged": REWRITE,
    "cut short": "Copy the complete file again, or remove it and run `slpd embed` again.",
    "outside": REWRITE,
}


class Stamp(NamedTuple):
    """File size, times and inode: a stamp that changes with the content of the file."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Read the stamp of a file.

        Raises:
            OSError: The file does not exist.
        """
        status = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, for thousands of files
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@dataclass(frozen=True, eq=False)
class Header:
    """Contents of a token file of R regions, and their positions in the file."""

    meta: TokenMeta
    coords: npt.NDArray[np.int64]
    """(R, 2) x and y of the top-left corner of each region, level-0 px."""
    checksums: npt.NDArray[np.uint32] | None
    """(R,) CRC-32 of the tokens of each region; None in files of version 1."""
    digest: str
    """Digest of everything in the file; empty in files of version 1."""
    missing_patches: int
    """Number of patches without a token."""
    tokens_offset: int
    """Position of the tokens in the file, bytes."""
    tissue_offset: int
    present_offset: int | None
    """Position of `present` in the file, bytes; None if all patches have a token."""
    stamp: Stamp

    @property
    def schema_version(self) -> int:
        """Version of the file format."""
        return 1 if self.checksums is None else schema.VERSION


def read_header(path: Path) -> Header:
    """Read and check the header of a token file.

    Raises:
        CacheError: The file is not a token file, cannot be read, is damaged, or inconsistent.
    """
    try:
        return read_plain_header(path) or _checked(describe_hdf5(path), Stamp.of(path))
    except Hdf5Error as error:
        raise CacheError(
            f"{path} cannot be read as a token file: {error.reason}.", hint=_HINTS.get(error.kind, error.hint)
        ) from error
    except OSError as error:
        raise unreadable_now(path, error) from error


def read_plain_header(path: Path) -> Header | None:
    """Read the header of an intact file of this version without the HDF5 library; return None for all other files.

    The digest shows that it was read correctly. Other files must be read with the library, which reports what is wrong.

    Raises:
        OSError: The file cannot be read.
    """
    stamp = Stamp.of(path)
    contents = describe_plain(path)
    if contents is None or not is_version(contents.attributes.get("schema_version"), {schema.VERSION}):
        return None
    try:
        return _checked(contents, stamp)
    except CacheError:
        return None


def _checked(contents: Hdf5Contents, stamp: Stamp) -> Header:
    meta = TokenMeta.from_attributes(contents.attributes, contents.path)
    _require_datasets(contents)
    _check_shapes(contents, meta, stamp.size)
    return _read(contents, meta, stamp)


def unreadable_now(path: Path, error: OSError) -> CacheError:
    """Describe an error of the operating system for a file that may be intact."""
    return CacheError(
        f"{path} cannot be read as a token file: {error.strerror or error}.",
        hint="The file itself may be intact: check its permissions and the disk or network drive, and run the same "
        "command again.",
    )


def read_array(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read a contiguous array.

    Raises:
        CacheError: The file is truncated.
        OSError: The file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _array(descriptor, path, offset, shape, dtype)
    finally:
        os.close(descriptor)


def _array(descriptor: int, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    array = np.empty(shape, dtype)
    raw = array.reshape(-1).view(np.uint8)
    done = 0
    while done < len(raw):  # one call reads at most 2 GiB
        count = os.preadv(descriptor, [raw[done:].data], offset + done)
        if not count:
            raise CacheError(f"{path} is truncated: it ends before byte {offset + len(raw):,}.", hint=REWRITE)
        done += count
    return array


def _require_datasets(contents: Hdf5Contents) -> None:
    path = contents.path
    needed: tuple[str, ...] = (schema.COORDS, schema.TISSUE, schema.TOKENS)
    if contents.attributes["schema_version"] >= 2:
        needed = (*needed, schema.CHECKSUMS)
    others = dict(contents.others) | dict.fromkeys(contents.groups, "group")
    for name in (*needed, schema.PRESENT):
        if name in others:
            raise CacheError(f"{path} cannot be read as a token file: {name!r} is a {others[name]}.", hint=REWRITE)
        if name in needed and name not in contents.datasets:
            raise CacheError(f"{path} cannot be read as a token file: {name!r} is missing.", hint=REWRITE)


def _check_shapes(contents: Hdf5Contents, meta: TokenMeta, size: int) -> None:
    """Check that the shapes of the datasets match, and that the datasets lie within the file."""
    path, found = contents.path, contents.datasets
    coords = found[schema.COORDS]
    regions = coords.shape[0] if coords.shape else 0
    expected = _expected(regions, meta)
    wrong = [
        f"{name} {_describe(info)}, expected {shape} {dtype}"
        for name, (shape, dtype) in expected.items()
        if (info := found.get(name)) is not None and (info.shape != shape or info.dtype != dtype)
    ]
    if wrong:
        raise CacheError(f"{path}: its arrays do not match: {'; '.join(wrong)}.", hint=REWRITE)
    for name in expected:
        info = found.get(name)
        if info is None or not info.nbytes:
            continue
        if info.outside:
            raise CacheError(f"{path}: {name} are stored in another file, which is not supported.", hint=REWRITE)
        if info.offset is None:
            raise CacheError(
                f"{path}: {name} are not stored contiguously.",
                hint="Compressed or chunked copies cannot be memory-mapped: copy the original file, or embed the "
                "slide again.",
            )
        if info.offset + info.nbytes > size:
            raise CacheError(
                f"{path}: {name} should have {info.nbytes:,} bytes at {info.offset:,}, but the file has {size:,} "
                "bytes.",
                hint=REWRITE,
            )


def _expected(regions: int, meta: TokenMeta) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    grid = meta.grid
    return {
        schema.TOKENS: ((regions, grid, grid, meta.embedding_dim), schema.TOKEN_DTYPE),
        schema.COORDS: ((regions, 2), schema.COORD_DTYPE),
        schema.TISSUE: ((regions, grid, grid), schema.TISSUE_DTYPE),
        schema.PRESENT: ((regions, grid, grid), schema.PRESENT_DTYPE),
        schema.CHECKSUMS: ((regions,), schema.CHECKSUM_DTYPE),
    }


def _describe(info: DatasetInfo) -> str:
    return f"{info.shape} {'text' if info.text else info.dtype or 'of another type'}"


def _read(contents: Hdf5Contents, meta: TokenMeta, stamp: Stamp) -> Header:
    path, found = contents.path, contents.datasets
    shapes = _expected(found[schema.COORDS].shape[0], meta)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        arrays = {
            name: _array(descriptor, path, found[name].offset or 0, *shapes[name])
            for name in (schema.COORDS, schema.TISSUE, schema.PRESENT, schema.CHECKSUMS)
            if name in found
        }
    finally:
        os.close(descriptor)
    coords, tissue, present = arrays[schema.COORDS], arrays[schema.TISSUE], arrays.get(schema.PRESENT)
    checksums = arrays.get(schema.CHECKSUMS) if contents.attributes["schema_version"] >= 2 else None
    _check_values(path, coords, tissue, present)
    digest = ""
    if checksums is not None:
        digest = schema.digest(meta, coords, tissue, present, checksums)
        if digest != contents.attributes.get(schema.DIGEST):
            raise CacheError(f"{path} was changed or damaged: its digest does not match its contents.", hint=REWRITE)
    return Header(
        meta=meta,
        coords=coords,
        checksums=checksums,
        digest=digest,
        missing_patches=0 if present is None else int(present.size - present.sum()),
        tokens_offset=found[schema.TOKENS].offset or 0,
        tissue_offset=found[schema.TISSUE].offset or 0,
        present_offset=None if present is None else found[schema.PRESENT].offset or 0,
        stamp=stamp,
    )


def _check_values(
    path: Path,
    coords: npt.NDArray[np.int64],
    tissue: npt.NDArray[np.float16],
    present: npt.NDArray[np.bool_] | None,
) -> None:
    if coords.size and not -schema.FURTHEST_L0 <= coords.min() <= coords.max() <= schema.FURTHEST_L0:
        raise CacheError(
            f"{path}: coords are {coords.min():,} to {coords.max():,} px, which is outside any possible slide.",
            hint=REWRITE,
        )
    if not ((tissue >= 0) & (tissue <= 1)).all():
        raise CacheError(f"{path}: tissue contains values that are not between 0 and 1.", hint=REWRITE)
    if present is not None and not (present.view(np.uint8) <= 1).all():
        raise CacheError(f"{path}: present contains values that are neither true nor false.", hint=REWRITE)
