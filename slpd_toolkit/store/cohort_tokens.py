"""Random access to all regions of a cache by number, without holding any of them in memory."""

from __future__ import annotations

import os
import resource
import threading
import zlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.store import schema
from slpd_toolkit.store.streaming import in_parts
from slpd_toolkit.store.token_file import changed_tokens

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.store.token_file import TokenStore

_FILES_LEFT_FOR_OTHERS = 128


class CohortTokens:
    """Regions 0 to R - 1 of a cache, slide by slide.

    The tokens of a region are checked against their checksum when they are read for the first time. Reads use `pread`
    instead of a memory map: it takes one system call per region and releases the GIL, memory does not fill up if the
    cache is larger than it, and a truncated file raises an error instead of a fatal signal. Files stay open, as many as
    the system allows.

    Args:
        store: The cache.
    """

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._starts = np.concatenate(([0], np.cumsum(store.lengths)))
        self._row_bytes = store.grid**2 * store.embedding_dim * schema.TOKEN_DTYPE.itemsize
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()
        self._verified = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    @cached_property
    def slide_of_region(self) -> npt.NDArray[np.int64]:
        """(R,) index of each region's slide in the store."""
        return np.repeat(np.arange(len(self._store.files)), self._store.lengths)

    @cached_property
    def _present(self) -> Tensor | None:
        """(R, grid, grid) bool; small, with one byte per patch instead of the hundreds of its token."""
        if not self._store.has_gaps:
            return None
        full = (self._store.grid, self._store.grid)
        parts = [
            np.ones((len(slide), *full), bool) if slide.present is None else slide.present
            for slide in self._store.files
        ]
        return torch.from_numpy(np.concatenate(parts))

    def present(self, regions: npt.NDArray[np.int64]) -> Tensor | None:
        """Return which patches of the given regions have a token, (B, grid, grid) bool; None if all have."""
        return None if self._present is None else self._present[torch.from_numpy(regions)]

    def read(self, regions: npt.NDArray[np.int64], *, pin_memory: bool = False) -> Tensor:
        """Read regions.

        Args:
            regions: (B,) indices, in any order.
            pin_memory: Read into page-locked memory, for asynchronous copies to a GPU.

        Returns:
            (B, grid, grid, D) float16.

        Raises:
            CacheError: A file is missing or truncated, or contains tokens that are NaN, infinite or do not match their
                checksum.
        """
        grid, width = self._store.grid, self._store.embedding_dim
        tokens = torch.empty((len(regions), grid, grid, width), dtype=torch.float16, pin_memory=pin_memory)
        rows = tokens.flatten(1).view(torch.uint8).numpy()
        slides = self.slide_of_region[regions]
        for row, slide, local in zip(rows, slides, regions - self._starts[slides], strict=True):
            self._read_region(int(slide), int(local), row)
        numbers = rows.view(schema.TOKEN_DTYPE)
        if not schema.all_finite(numbers):
            self._name_non_finite(numbers, slides, regions - self._starts[slides])
        return tokens

    def mean_token(self, slide: int) -> npt.NDArray[np.float32]:
        """Return the mean token of a slide, (D,), by its number in the store.

        The mean is over the tissue patches of all its regions (those with a tissue fraction above 0; without any, all
        patches that have a token). All regions of the slide are read, a few at a time.

        Raises:
            CacheError: See `read`.
        """
        tissue, present = self._store.files[slide].tissue > 0, self._store.files[slide].present
        counted = tissue if tissue.any() else np.ones_like(tissue) if present is None else present
        first = int(self._starts[slide])
        total = np.zeros(self._store.embedding_dim)
        for part in in_parts(np.arange(first, first + len(counted))):
            tokens = self.read(part).numpy()
            total += tokens[counted[part - first]].sum(axis=0, dtype=np.float64)
        mean: npt.NDArray[np.float32] = (total / max(1, counted.sum())).astype(np.float32)
        return mean

    def _read_region(self, slide: int, region: int, into: npt.NDArray[np.uint8]) -> None:
        file = self._store.files[slide]
        offset = file.tokens_offset + region * self._row_bytes
        try:
            descriptor, shared = self._descriptor(slide)
            try:
                count = os.preadv(descriptor, [into.data], offset)
            finally:
                if not shared:
                    os.close(descriptor)
        except OSError as error:
            raise CacheError(
                f"{file.path} can no longer be read ({error}).", hint="Restore it and resume the run."
            ) from error
        if count != self._row_bytes:
            raise CacheError(
                f"{file.path} is truncated: region {region} has {count:,} of {self._row_bytes:,} bytes.",
                hint="Restore it and resume the run.",
            )
        self._verify(slide, region, into)

    def _verify(self, slide: int, region: int, tokens: npt.NDArray[np.uint8]) -> None:
        """Check a region's tokens against their checksum, once."""
        file, number = self._store.files[slide], int(self._starts[slide]) + region
        if file.header.checksums is None or self._verified[number]:
            return
        if zlib.crc32(tokens.data) != file.header.checksums[region]:
            raise changed_tokens(file.path, region)
        self._verified[number] = True

    def _descriptor(self, slide: int) -> tuple[int, bool]:
        """Return an open file descriptor, and whether it stays open."""
        with self._lock:
            if slide in self._open:
                return self._open[slide], True
            descriptor = os.open(self._store.files[slide].path, os.O_RDONLY)
            stays = len(self._open) < _file_limit()
            if stays:
                self._open[slide] = descriptor
            return descriptor, stays

    def _name_non_finite(
        self, numbers: npt.NDArray[np.float16], slides: npt.NDArray[np.int64], regions: npt.NDArray[np.int64]
    ) -> None:
        bad = int(np.isfinite(numbers).all(axis=1).argmin())
        path = self._store.files[int(slides[bad])].path
        raise CacheError(
            f"{path}: region {int(regions[bad])} contains tokens that are NaN or infinite.",
            hint="Remove the file and embed or import the slide again.",
        )


def _file_limit() -> int:
    return max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FILES_LEFT_FOR_OTHERS)
