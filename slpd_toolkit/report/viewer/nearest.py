"""The regions of a cohort that are most similar to one region, by the cosine of their vectors."""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlpdError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearRegion:
    """A region that was found."""

    slide_id: str
    region: int
    """Index among the slide's regions."""
    cosine: float


@dataclass(frozen=True)
class Nearest:
    """Result of a search, which improves while the index is being built."""

    regions: tuple[NearRegion, ...]
    """Most similar first; of other slides only."""
    searched: int
    """Number of slides that were searched."""
    slides: int
    """Number of slides in total."""


class RegionIndex:
    """Unit vectors of the regions of all slides, read by a background thread after the first search.

    Args:
        slides: Slide IDs.
        vectors_of: Returns the (R, D) vectors of a slide; None if it has none.
    """

    def __init__(self, slides: Sequence[str], vectors_of: Callable[[str], Vectors | None]) -> None:
        self._slides, self._vectors_of = tuple(slides), vectors_of
        self._units: dict[str, npt.NDArray[np.float16]] = {}
        self._searched = 0
        self._lock = threading.Lock()
        self._started, self._stopped = False, threading.Event()

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()

    def nearest(self, slide_id: str, region: int, count: int) -> Nearest:
        """Search the slides that have been read so far.

        Args:
            slide_id: Slide of the region.
            region: Index of the region.
            count: Number of regions to find.

        Raises:
            LookupError: The slide has no vectors, or no such region.
        """
        query = self._read(slide_id)
        if query is None or not 0 <= region < len(query):
            raise LookupError(f"region {region} of {slide_id}")
        self._start()
        with self._lock:
            known, searched = list(self._units.items()), self._searched
        wanted = query[region].astype(np.float32)
        best = list[tuple[float, str, int]]()
        for other, units in known:
            if other == slide_id or units.shape[1] != len(wanted):
                continue
            cosines = units.astype(np.float32) @ wanted
            top = np.argsort(-cosines, kind="stable")[:count]
            best = heapq.nlargest(count, best + [(float(cosines[row]), other, int(row)) for row in top])
        regions = tuple(NearRegion(other, row, cosine) for cosine, other, row in best)
        return Nearest(regions, searched, len(self._slides))

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._read_all, name="region-index", daemon=True).start()

    def _read_all(self) -> None:
        for slide_id in self._slides:
            if self._stopped.is_set():
                return
            self._read(slide_id)
            with self._lock:
                self._searched += 1

    def _read(self, slide_id: str) -> npt.NDArray[np.float16] | None:
        with self._lock:
            known = self._units.get(slide_id)
        if known is not None:
            return known
        try:
            vectors = self._vectors_of(slide_id)
        except (SlpdError, OSError):  # a damaged slide is shown as such where it is opened
            vectors = None
        if vectors is None or not len(vectors):
            return None
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        units: npt.NDArray[np.float16] = (vectors / np.maximum(norms, 1e-12)).astype(np.float16)
        with self._lock:
            self._units[slide_id] = units
        return units
