"""Position of tokens in the regions of a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.ingest.embedding.slide_job import SlideJob, SlideReading


@dataclass(frozen=True, eq=False)
class BlockKey:
    """Position of the tokens of a block: grid rows and columns of its patches, (n,) each, in a region of a slide."""

    reading: SlideReading
    job: SlideJob
    region: int
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]

    def part(self, first: int, count: int) -> BlockKey:
        """Return the key of `count` patches starting at `first`."""
        chosen = slice(first, first + count)
        return BlockKey(self.reading, self.job, self.region, self.rows[chosen], self.columns[chosen])
