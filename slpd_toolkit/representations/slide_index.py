"""Search for similar slides: coarse by the cosine of mean vectors, exact by the matching of prototype sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.core.vectors import CosineIndex
from slpd_toolkit.mil.set_similarity import Sets, match_sets, padded_sets
from slpd_toolkit.representations.collapse import MOST_COMPARED, collapse_warning
from slpd_toolkit.representations.vector_sources import read_stored_vectors
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.run_folder import PROTOTYPES

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

CANDIDATES = 200


@dataclass(frozen=True, eq=False)
class Match:
    """A slide that was found, and how its vectors match those of the query."""

    slide_id: str
    row: int
    """Its position in the index."""
    similarity: float
    """Total cosine of the optimal matching, at most 1."""
    plan: npt.NDArray[np.float64]
    """(K, L) mass that the matching moves from each vector of the query to each of the slide's; sums to 1."""
    cosines: npt.NDArray[np.float64]
    """(K, L) cosines of the vectors."""

    @property
    def pairs(self) -> list[tuple[int, int, float, float]]:
        """Matched vectors as (query's, slide's, mass, cosine), largest contribution to the similarity first."""
        found = [
            (int(k), int(n), float(self.plan[k, n]), float(self.cosines[k, n]))
            for k, n in np.argwhere(self.plan > 1e-9)
        ]
        return sorted(found, key=lambda pair: (-pair[2] * pair[3], pair[:2]))


@dataclass(frozen=True, eq=False)
class SlideIndex:
    """Sets of vectors of N slides or patients, and an index of their means.

    >>> index = slpd.SlideIndex.open("runs/slpd")
    >>> index
    SlideIndex(10 slides, up to 2 vectors of 16 features)
    >>> [match.slide_id for match in index.search("slide000", top=2)][0] != "slide000"
    True
    """

    slide_ids: tuple[str, ...]
    """N names."""
    sets: Sets
    """Their weighted unit vectors."""
    run: PrototypeFile | None = None
    """The regions of the prototypes, if they are those of a run."""
    origin: str = ""
    """Where the vectors are from."""
    _coarse: CosineIndex = field(init=False)

    def __post_init__(self) -> None:
        """Build the coarse index: the weighted mean of each set."""
        means = np.einsum("nkd,nk->nd", self.sets.vectors, self.sets.weights)
        object.__setattr__(self, "_coarse", CosineIndex(means))

    @classmethod
    def open(cls, source: str | os.PathLike[str]) -> SlideIndex:
        """Open the prototypes of a run, or slide vectors of any kind.

        Args:
            source: Run folder of `slpd pretrain`, its prototypes.h5, or a file or folder of vectors.

        Raises:
            UsageError: There are no prototypes or vectors.
            CacheError: prototypes.h5 cannot be read.
        """
        path = Path(source)
        if path.is_dir() and (path / PROTOTYPES).exists():
            path /= PROTOTYPES
        if path.name == PROTOTYPES:
            return cls.of_run(PrototypeFile.read(path), str(path))
        if not path.exists():
            raise UsageError(f"{path} does not exist.", hint="Use a run folder, or vectors of `slpd represent`.")
        stored = read_stored_vectors(path)
        return cls(stored.bags.slides, padded_sets(stored.bags), origin=str(path))

    @classmethod
    def of_run(cls, file: PrototypeFile, origin: str = "") -> SlideIndex:
        """Index the slides of a prototype file; the weight of a prototype is its share of the slide's regions."""
        slides, clusters = file.prototypes.shape[:2]
        kept = file.region_row >= 0
        cells = file.region_row[kept] * clusters + file.region_cluster[kept]
        counts = np.bincount(cells, minlength=slides * clusters).reshape(slides, clusters)
        total = counts.sum(axis=1, keepdims=True)
        weights = np.where(total > 0, counts / np.maximum(total, 1), 1 / clusters)
        return cls(tuple(map(str, file.slide_ids)), Sets(file.prototypes, weights.astype(np.float32)), file, origin)

    def warning(self) -> str:
        """Describe what is suspicious about the vectors, from at most 2 048 of them; see `collapse_warning`."""
        rows = np.linspace(0, len(self) - 1, min(len(self), MOST_COMPARED)).astype(np.int64)
        means = np.einsum("nkd,nk->nd", self.sets.vectors[rows], self.sets.weights[rows])
        return collapse_warning(self.origin, [self.slide_ids[row] for row in rows], means)

    def __len__(self) -> int:
        return len(self.slide_ids)

    def __repr__(self) -> str:
        _, most, width = self.sets.vectors.shape
        return f"SlideIndex({len(self):,} slides, up to {most} vectors of {width} features)"

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {slide: row for row, slide in reversed(list(enumerate(self.slide_ids)))}

    def set_of(self, slide_id: str) -> Sets:
        """Return the set of one slide, with shapes (1, K, D) and (1, K).

        Raises:
            UsageError: The index does not contain it.
        """
        if slide_id not in self._row_of:
            raise UsageError(
                f"{slide_id} is not in {self.origin or 'the index'}, which has {count(len(self), 'slide')} such as "
                f"{self.slide_ids[0]}.",
                hint="Use the ID of a slide with prototypes, or the path of a token file.",
            )
        row = self._row_of[slide_id]
        return Sets(self.sets.vectors[row : row + 1], self.sets.weights[row : row + 1])

    def search(
        self,
        query: str | Sets,
        *,
        top: int = 10,
        allowed: npt.NDArray[np.bool_] | None = None,
        candidates: int = CANDIDATES,
    ) -> list[Match]:
        """Find the most similar slides.

        Args:
            query: A slide of the index, which is never found itself, or a set of vectors with shapes (1, K, D), (1, K).
            top: Number of slides to find.
            allowed: (N,) slides that may be found; None for all others.
            candidates: Number of slides with the most similar means whose sets are matched. With N or more, the result
                is exact.

        Raises:
            UsageError: The index does not contain the slide, or the query's vectors have another length.
        """
        may = np.ones(len(self), np.bool_) if allowed is None else allowed.copy()
        if isinstance(query, str):
            own = self.set_of(query)
            may[self._row_of[query]] = False
        else:
            own = query
        if own.vectors.shape[2] != self.sets.vectors.shape[2]:
            raise UsageError(
                f"The query has vectors of {own.vectors.shape[2]} features, the index of {self.sets.vectors.shape[2]}.",
                hint="Use vectors of the same model.",
            )
        mean = np.einsum("kd,k->d", own.vectors[0], own.weights[0])
        rows, _ = self._coarse.nearest(mean, max(candidates, top), may)
        rows = np.sort(rows)
        cosines = own.vectors.astype(np.float64) @ self.sets.vectors[rows].transpose(0, 2, 1)
        weights = np.repeat(own.weights, len(rows), axis=0)
        similarities, plans = match_sets(cosines, weights, self.sets.weights[rows])
        best = np.argsort(-np.round(similarities, 9), kind="stable")[:top]
        return [
            Match(self.slide_ids[rows[i]], int(rows[i]), float(similarities[i]), plans[i], cosines[i]) for i in best
        ]


def table_of(matches: list[Match]) -> pd.DataFrame:
    """Return one row per match: slide_id, similarity, and the matched vectors as text."""
    return pd.DataFrame(
        {
            "slide_id": [match.slide_id for match in matches],
            "similarity": [match.similarity for match in matches],
            "matched": [" ".join(f"{k + 1}-{n + 1}" for k, n, _, _ in match.pairs) for match in matches],
        }
    )
