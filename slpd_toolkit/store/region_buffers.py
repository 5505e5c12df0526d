"""Buffers that collect the tokens of regions until they are complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.store import schema

if TYPE_CHECKING:
    import numpy.typing as npt


class RegionBuffers:
    """Collects tokens region by region.

    Args:
        shape: (regions, grid, grid, features).
        present: (R, grid, grid) bool, patches that have a token; None if all have.
    """

    def __init__(self, shape: tuple[int, int, int, int], present: npt.NDArray[np.bool_] | None) -> None:
        self._shape = shape
        self._begun: dict[int, tuple[npt.NDArray[np.float16], int]] = {}
        self.present = present
        # A region without any token needs no buffer: the file contains zeros from the start.
        self.missing = shape[0] if present is None else int(present.any(axis=(1, 2)).sum())
        """Number of regions that still lack tokens."""

    def add(
        self,
        region: int,
        rows: npt.NDArray[np.intp],
        columns: npt.NDArray[np.intp],
        tokens: npt.NDArray[np.float16],
    ) -> npt.NDArray[np.float16] | None:
        """Add the tokens of some patches, (n, D); return those of the whole region once it is complete."""
        buffer, missing = self._begun.get(region) or self._begin(region)
        buffer[rows, columns] = tokens
        missing -= len(tokens)
        if missing:
            self._begun[region] = (buffer, missing)
            return None
        self._begun.pop(region, None)
        self.missing -= 1
        return buffer

    def drop(
        self, region: int, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float16] | None:
        """Mark some patches as not present, with zeros as tokens; otherwise like `add`."""
        assert self.present is not None
        if region not in self._begun:
            self._begun[region] = self._begin(region)
        self.present[region, rows, columns] = False
        return self.add(region, rows, columns, np.zeros((len(rows), self._shape[3]), schema.TOKEN_DTYPE))

    def _begin(self, region: int) -> tuple[npt.NDArray[np.float16], int]:
        """Return a buffer for the tokens of a region, and their number."""
        if self.present is None:
            return np.empty(self._shape[1:], schema.TOKEN_DTYPE), self._shape[1] * self._shape[2]
        return np.zeros(self._shape[1:], schema.TOKEN_DTYPE), int(self.present[region].sum())
