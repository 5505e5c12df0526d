"""Writing one token file: region by region into a hidden sibling, which is named only when it is complete."""

from __future__ import annotations

import math
import zlib
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

import numpy as np

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.store import schema
from slpd_toolkit.store.layout import lay_out
from slpd_toolkit.store.region_buffers import RegionBuffers

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

    from slpd_toolkit.core.hdf5_writer import Layout
    from slpd_toolkit.store.schema import TokenMeta


class TokenWriter:
    """Writes the token file of one slide; memory holds only the regions that are begun and not finished.

    Tokens may arrive in any order; patches that have none are zeros in the file, without tissue. Use it as a context
    manager, or call `commit` or `abort`: the file appears, whole and synced, on `commit`; `abort`, an exception in the
    block, or a crash leaves nothing under its name.

    Args:
        path: The token file.
        meta: Its attributes.
        coords: (R, 2) int64, x and y of the regions' top-left corners, level-0 px.
        tissue: (R, grid, grid), tissue fraction of each patch.
        present: (R, grid, grid), which patches have a token; None where all have.
        may_drop: Whether patches may turn out to have no token: see `drop`.

    Raises:
        CacheError: The disk refuses (full, read-only).
    """

    def __init__(
        self,
        path: Path,
        meta: TokenMeta,
        coords: npt.NDArray[np.int64],
        tissue: npt.NDArray[np.floating],
        present: npt.NDArray[np.bool_] | None = None,
        *,
        may_drop: bool = False,
    ) -> None:
        self.path = path
        shape = (len(coords), meta.grid, meta.grid, meta.embedding_dim)
        present = None if present is None or present.all() else present
        if may_drop and present is None:
            present = np.ones(shape[:3], np.bool_)
        self._regions = RegionBuffers(shape, present)
        self._header = (meta, coords, tissue, present)
        layout = self._lay_out()
        self._tokens_offset = layout.offsets[schema.TOKENS]
        nothing = bytes(math.prod(shape[1:]) * schema.TOKEN_DTYPE.itemsize)
        self._checksums = np.full(len(coords), zlib.crc32(nothing), schema.CHECKSUM_DTYPE)
        with ExitStack() as stack, _disk_errors(path):
            partial = stack.enter_context(atomic_path(path))
            self._file = stack.enter_context(partial.open("r+b"))
            self._file.truncate(layout.size)
            self._write_parts(layout)  # again on `commit`, with the checksums: a full disk is noticed before the work
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()
        else:
            self.abort()

    def put(
        self, region: int, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], tokens: npt.NDArray[np.floating]
    ) -> None:
        """Store the tokens of some patches of one region.

        Args:
            region: Index of the region.
            rows: (n,) grid rows.
            columns: (n,) grid columns.
            tokens: (n, D) features; every patch that is present must be given exactly once in all.

        Raises:
            CacheError: A token is not finite in float16, or the disk refuses.
            ValueError: A patch is given that is not present.
        """
        present = self._regions.present
        if present is not None and not present[region, rows, columns].all():
            raise ValueError(f"{self.path}: region {region} is given tokens of patches that are not present")
        stored, problem = schema.as_tokens(tokens)
        if problem:
            raise CacheError(
                f"{self.path}: region {region} has tokens that are {problem}.",
                hint="Check the encoder's weights and --precision.",
            )
        self._write(region, self._regions.add(region, rows, columns, stored))

    def drop(self, region: int, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> None:
        """Leave some patches of one region without a token, after `may_drop`: instead of `put`.

        Args:
            region: Index of the region.
            rows: (n,) grid rows.
            columns: (n,) grid columns.
        """
        self._write(region, self._regions.drop(region, rows, columns))

    def _write(self, region: int, tokens: npt.NDArray[np.float16] | None) -> None:
        """Write a region that has all its tokens."""
        if tokens is None:
            return
        self._checksums[region] = zlib.crc32(tokens.data)
        with _disk_errors(self.path):
            self._file.seek(self._tokens_offset + region * tokens.nbytes)
            self._file.write(tokens.data)

    def _lay_out(self, checksums: npt.NDArray[np.uint32] | None = None) -> Layout:
        """Describe the file; patches without a token have no tissue."""
        meta, coords, tissue, present = self._header
        tissue = tissue if present is None else np.where(present, tissue, 0)
        return lay_out(meta, coords, tissue, present, checksums)

    def _write_parts(self, layout: Layout) -> None:
        for offset, data in layout.parts.items():
            self._file.seek(offset)
            self._file.write(data)
        self._file.flush()

    @property
    def complete(self) -> bool:
        """Whether every region has all its tokens."""
        return self._regions.missing == 0

    def commit(self) -> None:
        """Close, sync and name the file.

        Raises:
            CacheError: Tokens are missing, or the disk refuses; nothing is left under the file's name.
        """
        if not self.complete:
            self.abort()
            raise CacheError(f"{self.path}: {self._regions.missing} of {len(self._checksums)} regions lack tokens.")
        with _disk_errors(self.path):
            try:
                self._write_parts(self._lay_out(self._checksums))
            except OSError:
                self.abort()
                raise
            self._open.close()

    def abort(self) -> None:
        """Throw away what was written."""
        reason = CacheError(f"{self.path}: abandoned.")
        with suppress(CacheError, OSError):  # a full disk refuses again what is written at closing
            self._open.__exit__(type(reason), reason, None)


class _disk_errors:  # noqa: N801 - reads as the context it is
    """Turn what the system raises when the disk refuses into a CacheError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise CacheError(
                f"{self.path} cannot be written ({error}).", hint="Check free space, quota and permissions."
            ) from error
