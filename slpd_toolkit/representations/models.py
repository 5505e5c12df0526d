"""One `--model`, ready to represent slides: vectors that a table holds, or something computed from every region."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from slpd_toolkit.core import console
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.statistics.results import RegionPlaces, Representation
from slpd_toolkit.representations.stored_bags import StoredBags
from slpd_toolkit.store.streaming import in_parts, map_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.core.console import Progress
    from slpd_toolkit.store.cohort_tokens import CohortTokens
    from slpd_toolkit.store.streaming import RegionBatch
    from slpd_toolkit.store.token_file import TokenFile, TokenStore

    Bag = npt.NDArray[np.float32]
    EmbedRegions = Callable[[RegionBatch], Tensor]
    """n regions -> (n, E)."""


_KEEP_EVERY_S = 60.0


class Model(Protocol):
    """One `--model`, opened and checked."""

    @property
    def name(self) -> str:
        """Short and unique."""

    @property
    def source(self) -> str:
        """Where it comes from, in words."""

    @property
    def digest(self) -> str:
        """Tells it from other models."""

    @property
    def of_cache(self) -> bool:
        """Whether it is computed from the token cache."""

    @property
    def slides(self) -> Collection[str]:
        """Ids of the slides that it can represent."""

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """Give the bags of these slides, in their order; counts their regions in `bar`."""


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Vectors of whole slides: bags of one."""

    name: str
    source: str
    digest: str
    vectors: Mapping[str, Bag]
    """(1, D) a slide."""

    of_cache: bool = False

    @property
    def slides(self) -> Collection[str]:
        """Ids of the slides in the table."""
        return self.vectors.keys()

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """See `Model.represent`."""
        bar.advance(0, self.name)
        return Representation(self.name, self.source, Bags.pack({slide: self.vectors[slide] for slide in slides}))


@dataclass(frozen=True, eq=False)
class Cache:
    """A token cache: its files, and its regions as one list."""

    store: TokenStore
    tokens: CohortTokens
    device: torch.device
    """Where regions are embedded."""
    workers: int
    """Threads that read ahead."""

    @cached_property
    def files(self) -> dict[str, TokenFile]:
        """Token files that hold a region, by slide id."""
        return {slide.meta.slide_id: slide for slide in self.store.files if len(slide)}


@dataclass(frozen=True, eq=False)
class RegionModel:
    """An embedding of every region of a token cache."""

    name: str
    source: str
    digest: str
    cache: Cache
    embed: EmbedRegions
    stored: Path | None = None
    """Where embeddings are kept for the next evaluation; None where making them costs no more than reading."""
    pretrained: frozenset[str] = frozenset()
    pretraining_known: bool = False
    of_cache: bool = True

    @property
    def slides(self) -> Collection[str]:
        """Ids of the slides of the cache that have a region."""
        return self.cache.files.keys()

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """See `Model.represent`."""
        files = self.cache.files
        stored = None if self.stored is None else StoredBags(self.stored, self.digest)
        bags = {slide: bag for slide in slides if stored and (bag := stored.get(files[slide])) is not None}
        bar.advance(sum(map(len, bags.values())), self.name)
        keeper = _Keeper(stored, files)
        try:
            for slide, bag in self._make([slide for slide in slides if slide not in bags], bar):
                bags[slide] = bag
                keeper.add(slide, bag)
        finally:  # an interrupt, or memory that ran out, costs none of the work before it
            keeper.write()
        packed = Bags.pack({slide: bags[slide] for slide in slides})
        metas = [files[slide].meta for slide in slides]
        places = RegionPlaces(
            np.concatenate([files[slide].coords for slide in slides]),
            np.array([meta.region_l0 for meta in metas], np.int64),
            np.array([(meta.slide_width_l0, meta.slide_height_l0) for meta in metas], np.int64),
        )
        return Representation(self.name, self.source, packed, places, self.pretrained, self.pretraining_known)

    @torch.inference_mode()
    def _make(self, slides: Sequence[str], bar: Progress) -> Iterator[tuple[str, Bag]]:
        """Embed slide by slide, so that the numbers of one do not depend, in any bit, on which others there are."""
        of_slide, ids = self.cache.tokens.slide_of_region, self.cache.store.slide_ids
        first = {slide: int(np.searchsorted(of_slide, index)) for index, slide in enumerate(ids)}
        parts = {
            slide: in_parts(np.arange(first[slide], first[slide] + len(self.cache.files[slide]))) for slide in slides
        }
        in_order = (part for slide in slides for part in parts[slide])
        made = map_regions(
            self.embed, self.cache.tokens, in_order, device=self.cache.device, workers=self.cache.workers
        )
        for slide in slides:
            bag = torch.cat([next(made).float().cpu() for _ in parts[slide]]).numpy()
            bar.advance(len(bag), self.name)
            yield slide, bag


class _Keeper:
    """Keeps embeddings as they are made, if the folder lets us: without, only the next evaluation takes longer."""

    def __init__(self, stored: StoredBags | None, files: Mapping[str, TokenFile]) -> None:
        self._stored, self._files = stored, files
        self._new: dict[str, Bag] = {}
        self._written = time.monotonic()

    def add(self, slide: str, bag: Bag) -> None:
        """Take a slide's embeddings; they are written within a minute or so, as each time writes the whole file."""
        if self._stored is None:
            return
        self._new[slide] = bag
        if time.monotonic() - self._written >= _KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write what was added."""
        if self._stored is None or not self._new:
            return
        try:
            self._stored.add(self._new, self._files)
        except OSError as error:
            console.note(f"Region embeddings are not kept, the next evaluation makes them anew: {error}.")
            self._stored = None
        self._new = {}
        self._written = time.monotonic()
