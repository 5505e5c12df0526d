"""Opened models of `--model`: tables of slide vectors, or embeddings computed from every region."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
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
    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
    from slpd_toolkit.models.region_vit import RegionViT
    from slpd_toolkit.representations.slide_context import ContextModel
    from slpd_toolkit.store.cohort_tokens import CohortTokens
    from slpd_toolkit.store.streaming import RegionBatch
    from slpd_toolkit.store.token_file import TokenFile, TokenStore

    Bag = npt.NDArray[np.float32]
    EmbedRegions = Callable[[RegionBatch], Tensor]
    """n regions -> (n, E)."""


_KEEP_EVERY_S = 60.0
_NO_SLIDES = np.empty(0, np.int64)


class Model(Protocol):
    """One opened and checked `--model`."""

    @property
    def name(self) -> str:
        """Short unique name."""

    @property
    def source(self) -> str:
        """Description of its origin."""

    @property
    def digest(self) -> str:
        """Digest that identifies the model."""

    @property
    def of_cache(self) -> bool:
        """Whether embeddings are computed from the token cache."""

    @property
    def slides(self) -> Collection[str]:
        """IDs of the slides that the model can represent."""

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """Return the bags of these slides, in order; advances `bar` by their regions."""


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Vectors of whole slides: bags with one vector, or with a small set of weighted ones."""

    name: str
    source: str
    digest: str
    vectors: Mapping[str, Bag]
    """(k, D) per slide; k is 1 unless the vectors are sets."""
    weights: Mapping[str, Bag] | None = None
    """(k,) weights of a slide's vectors; None if they are not sets."""
    pretrained: frozenset[str] = frozenset()
    """Slides that the vectors were fitted on."""
    pretraining_known: bool = False
    of_cache: bool = False

    @property
    def slides(self) -> Collection[str]:
        """IDs of the slides in the table."""
        return self.vectors.keys()

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """See `Model.represent`."""
        bar.advance(0, self.name)
        bags = Bags.pack({slide: self.vectors[slide] for slide in slides})
        if self.weights is not None:
            bags = replace(bags, weights=np.concatenate([self.weights[slide] for slide in slides]))
        return Representation(
            self.name,
            self.source,
            bags,
            pretrained=self.pretrained,
            pretraining_known=self.pretraining_known,
        )


@dataclass(frozen=True, eq=False)
class Cache:
    """A token cache with its files and the list of all regions."""

    store: TokenStore
    tokens: CohortTokens
    device: torch.device
    """Device on which regions are embedded."""
    workers: int
    """Number of threads that read ahead."""

    @cached_property
    def files(self) -> dict[str, TokenFile]:
        """Token files with at least one region, by slide ID."""
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
    """Storage of embeddings for later evaluations; None if computing them is as cheap as reading."""
    pretrained: frozenset[str] = frozenset()
    pretraining_known: bool = False
    of_cache: bool = True
    network: RegionViT | None = None
    """The network that embeds; None for the mean of tokens."""
    over_stains: bool = False
    """Whether tokens are averaged over the stain views of the cache. `slpd predict` does not make these, so such
    a model is not bundled."""

    @property
    def slides(self) -> Collection[str]:
        """IDs of the slides in the cache that have regions."""
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
        finally:  # keep finished work after an interrupt or an out-of-memory error
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
        """Embed slide by slide, so that the result of a slide is bit-identical whatever other slides there are."""
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


@dataclass(frozen=True, eq=False)
class DescribedModel:
    """Descriptors of slides, computed from the regions of another model."""

    name: str
    regions: RegionModel | ContextModel
    descriptor: ChosenDescriptor
    of_cache: bool = True

    @property
    def source(self) -> str:
        """Description of its origin."""
        chosen = self.descriptor
        clusters = f", {chosen.clusters} prototypes" if chosen.clusters else ""
        fitted = ", fitted in each fold" if chosen.load().is_fitted else ""
        token = ", and the slide's mean token" if chosen.mean_token else ""
        return f"{self.regions.source}: {chosen.name}{clusters}{fitted}{token}"

    @property
    def digest(self) -> str:
        """Digest of the model of regions."""
        return self.regions.digest

    @property
    def slides(self) -> Collection[str]:
        """IDs of the slides in the cache that have regions."""
        return self.regions.slides

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """See `Model.represent`."""
        return self.describe(self.regions.represent(slides, bar))

    def describe(self, regions: Representation) -> Representation:
        """Describe every slide, or leave that to each fold if the descriptor is fitted.

        Args:
            regions: Result of `regions.represent`.
        """
        if self.descriptor.mean_token:
            regions = replace(regions, bags=with_mean_tokens(regions.bags, self.regions.cache))
        named = replace(regions, name=self.name, source=self.source, places=None)
        if self.descriptor.load().is_fitted:
            return replace(named, descriptor=self.descriptor)
        return replace(named, bags=self.descriptor.apply(regions.bags, _NO_SLIDES))


def with_mean_tokens(bags: Bags, cache: Cache) -> Bags:
    """Return the bags with the mean token of each slide, which `describe_bags` appends to its descriptor.

    It is the mean over the tissue patches of all regions of the slide, which centering subtracts and whitening scales
    down. The tokens of all slides are read once more.

    Raises:
        CacheError: A token file can no longer be read.
    """
    number = {slide: index for index, slide in enumerate(cache.store.slide_ids)}
    means = []
    with console.progress("mean tokens", total=len(bags.slides), unit="slides") as bar:
        for slide in bags.slides:
            means.append(cache.tokens.mean_token(number[slide]))
            bar.advance(1, slide)
    return replace(bags, appended=np.stack(means))


class _Keeper:
    """Stores embeddings as they are computed. If the folder is not writable, only the next evaluation takes longer."""

    def __init__(self, stored: StoredBags | None, files: Mapping[str, TokenFile]) -> None:
        self._stored, self._files = stored, files
        self._new: dict[str, Bag] = {}
        self._written = time.monotonic()

    def add(self, slide: str, bag: Bag) -> None:
        """Add embeddings of a slide; written about once a minute, because each write rewrites the whole file."""
        if self._stored is None:
            return
        self._new[slide] = bag
        if time.monotonic() - self._written >= _KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the added embeddings."""
        if self._stored is None or not self._new:
            return
        try:
            self._stored.add(self._new, self._files)
        except OSError as error:
            console.note(f"Region embeddings are not stored; the next evaluation will recompute them: {error}.")
            self._stored = None
        self._new = {}
        self._written = time.monotonic()
