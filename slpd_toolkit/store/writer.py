"""Writing a token file: region by region to a hidden file, which is renamed when it is complete."""

from __future__ import annotations

import math
import zlib
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

import numpy as np

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.core.text import agree, count
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
    """Writes the token file of one slide; only incomplete regions are held in memory.

    Tokens may arrive in any order; patches without a token are zeros in the file, with tissue fraction 0. Use it as a
    context manager, or call `commit` or `abort`. The file appears on `commit`, complete and synced to disk; after
    `abort`, an exception in the block, or a crash, there is no file of that name.

    Args:
        path: The token file.
        meta: Attributes of the file.
        coords: (R, 2) int64 x and y of the top-left corner of each region, level-0 px.
        tissue: (R, grid, grid) tissue fraction of each patch.
        present: (R, grid, grid) bool, patches that have a token; None if all have.
        may_drop: Whether patches may turn out to have no token: see `drop`.

    Raises:
        CacheError: The file cannot be written (disk full, read-only).
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
            self._write_parts(
                layout
            )  # and again on `commit`, with the checksums; now, so that a full disk is noticed before the work
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
            tokens: (n, D) features. Each patch that is present must be passed exactly once overall.

        Raises:
            CacheError: A token is not finite in float16, or the file cannot be written.
            ValueError: A patch is not present.
        """
        present = self._regions.present
        if present is not None and not present[region, rows, columns].all():
            raise ValueError(f"{self.path}: region {region} received tokens for patches that are not present")
        stored, problem = schema.as_tokens(tokens)
        if problem:
            raise CacheError(
                f"{self.path}: region {region} has tokens that are {problem}.",
                hint="Check the encoder's weights and --precision.",
            )
        self._write(region, self._regions.add(region, rows, columns, stored))

    def drop(self, region: int, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> None:
        """Leave some patches of one region without a token, instead of calling `put`; requires `may_drop`.

        Args:
            region: Index of the region.
            rows: (n,) grid rows.
            columns: (n,) grid columns.
        """
        self._write(region, self._regions.drop(region, rows, columns))

    def _write(self, region: int, tokens: npt.NDArray[np.float16] | None) -> None:
        """Write a complete region."""
        if tokens is None:
            return
        self._checksums[region] = zlib.crc32(tokens.data)
        with _disk_errors(self.path):
            self._file.seek(self._tokens_offset + region * tokens.nbytes)
            self._file.write(tokens.data)

    def _lay_out(self, checksums: npt.NDArray[np.uint32] | None = None) -> Layout:
        """Return the structure of the file; the tissue fraction of patches without a token is 0."""
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
        """Sync, close and rename the file.

        Raises:
            CacheError: Tokens are missing, or the file cannot be written; there is then no file of that name.
        """
        if not self.complete:
            self.abort()
            raise CacheError(
                f"{self.path}: {self._regions.missing} of {count(len(self._checksums), 'region')} "
                f"{agree(self._regions.missing, 'lacks', 'lack')} tokens."
            )
        with _disk_errors(self.path):
            try:
                self._write_parts(self._lay_out(self._checksums))
            except OSError:
                self.abort()
                raise
            self._open.close()

    def abort(self) -> None:
        """Discard what was written."""
        reason = CacheError(f"{self.path}: abandoned.")
        with suppress(CacheError, OSError):  # on a full disk, closing the file fails again
            self._open.__exit__(type(reason), reason, None)


class _disk_errors:  # noqa: N801 - used as a context manager
    """Convert an OSError of a write to a CacheError."""

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
