"""Regions that have some of their tokens: memory for each until it has all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.store import schema

if TYPE_CHECKING:
    import numpy.typing as npt


class RegionBuffers:
    """Collects tokens region by region.

    Args:
        shape: Regions, grid, grid, features.
        present: (R, grid, grid), which patches have a token; None where all have.
    """

    def __init__(self, shape: tuple[int, int, int, int], present: npt.NDArray[np.bool_] | None) -> None:
        self._shape = shape
        self._begun: dict[int, tuple[npt.NDArray[np.float16], int]] = {}
        self.present = present
        # A region without any token is never begun: the file holds zeros there from the start.
        self.missing = shape[0] if present is None else int(present.any(axis=(1, 2)).sum())
        """Regions that lack tokens."""

    def add(
        self,
        region: int,
        rows: npt.NDArray[np.intp],
        columns: npt.NDArray[np.intp],
        tokens: npt.NDArray[np.float16],
    ) -> npt.NDArray[np.float16] | None:
        """Keep the tokens of some patches, (n, D); return those of the whole region once it has all."""
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
        """Take the tokens of some patches for given, as zeros, and mark them as not present; else as `add`."""
        assert self.present is not None
        if region not in self._begun:
            self._begun[region] = self._begin(region)
        self.present[region, rows, columns] = False
        return self.add(region, rows, columns, np.zeros((len(rows), self._shape[3]), schema.TOKEN_DTYPE))

    def _begin(self, region: int) -> tuple[npt.NDArray[np.float16], int]:
        """Return memory for a region's tokens, and their number."""
        if self.present is None:
            return np.empty(self._shape[1:], schema.TOKEN_DTYPE), self._shape[1] * self._shape[2]
        return np.zeros(self._shape[1:], schema.TOKEN_DTYPE), int(self.present[region].sum())
