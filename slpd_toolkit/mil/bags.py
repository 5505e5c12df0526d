"""Packed bags of region embeddings: the regions of all slides in one array, and the first row of each slide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import BoolArray, IntArray


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean and standard deviation of each of D features; the latter is 1 for constant features."""

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Bags:
    """Region embeddings of S slides: M regions in total, of width D. Not padded; batches made from it are."""

    slides: tuple[str, ...]
    """S slide IDs."""
    features: NDArray[np.float32]
    """(M, D) region embeddings, slide after slide."""
    offsets: IntArray
    """(S + 1,) the rows of slide i are offsets[i] to offsets[i + 1] - 1."""
    weights: NDArray[np.float32] | None = None
    """(M,) weight of each row within its slide, for sets of prototypes; they sum to 1 per slide. None: equal."""
    appended: NDArray[np.float32] | None = None
    """(S, A) values of each slide that `describe_bags` appends to its descriptor. None: nothing is appended."""

    @classmethod
    def pack(cls, bag_of_slide: Mapping[str, NDArray[np.floating]]) -> Bags:
        """Pack one (N_i, D) array per slide; the slides keep their order.

        Raises:
            UsageError: There is no slide, a slide has no regions, widths differ, or values are not finite.
        """
        if not bag_of_slide:
            raise UsageError("There are no slides to evaluate.", hint="Check the manifest and the cache.")
        _require_shapes(bag_of_slide)
        broken = [slide for slide, bag in bag_of_slide.items() if not np.isfinite(bag).all()]
        if broken:
            raise UsageError(
                f"Embeddings of {count(len(broken), 'slide')} contain NaN or infinity: {listed(broken)}.",
                hint="Recompute them.",
            )
        sizes = [len(bag) for bag in bag_of_slide.values()]
        features = np.concatenate([np.asarray(bag, dtype=np.float32) for bag in bag_of_slide.values()])
        return cls(tuple(bag_of_slide), features, np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def width(self) -> int:
        """Width of the embeddings, D."""
        return int(self.features.shape[1])

    @cached_property
    def sizes(self) -> IntArray:
        """(S,) number of regions of each slide."""
        return np.diff(self.offsets)

    def index_of(self, slides: Sequence[str]) -> IntArray:
        """Return the positions of slides, given their IDs.

        Raises:
            UsageError: A slide has no bag.
        """
        position = {slide: index for index, slide in enumerate(self.slides)}
        missing = [slide for slide in slides if slide not in position]
        if missing:
            raise UsageError(
                f"{count(len(missing), 'slide has', 'slides have')} no embedding: {listed(missing)}.",
                hint="Embed them, or leave them out.",
            )
        return np.array([position[slide] for slide in slides], dtype=np.int64)

    def regions_of(self, index: IntArray) -> IntArray:
        """Return the rows of `features` that belong to the slides at these positions, slide by slide."""
        starts, sizes = self.offsets[index], self.sizes[index]
        before = np.cumsum(sizes) - sizes  # rows of the slides that come first
        return np.repeat(starts - before, sizes) + np.arange(sizes.sum())

    def subset(self, index: IntArray) -> Bags:
        """Return the bags of the slides at these positions, in their order."""
        rows = self.regions_of(index)
        return Bags(
            tuple(self.slides[i] for i in index),
            self.features[rows],
            np.concatenate([[0], np.cumsum(self.sizes[index])]).astype(np.int64),
            None if self.weights is None else self.weights[rows],
            None if self.appended is None else self.appended[index],
        )

    def mean(self) -> NDArray[np.float32]:
        """(S, D) mean embedding of each slide, weighted if there are weights."""
        bags = np.split(self.features, self.offsets[1:-1])
        if self.weights is not None:
            shares = np.split(self.weights.astype(np.float64), self.offsets[1:-1])
            return np.stack([share @ bag for share, bag in zip(shares, bags, strict=True)]).astype(np.float32)
        return np.stack([bag.mean(axis=0, dtype=np.float64) for bag in bags]).astype(np.float32)

    def scaler(self, index: IntArray) -> Scaler:
        """Compute the scaler from the regions of the slides at these positions; pass training slides only."""
        # Slide by slide, because a double-precision copy of all training regions would need more memory than the bags.
        bags = [self.features[self.offsets[i] : self.offsets[i + 1]] for i in index]
        count = self.sizes[index].sum()
        mean = sum(bag.sum(axis=0, dtype=np.float64) for bag in bags) / count
        sd = np.sqrt(sum(np.square(bag - mean).sum(axis=0) for bag in bags) / count)
        return Scaler(mean.astype(np.float32), np.where(sd > 0, sd, 1).astype(np.float32))

    def padded(self, index: IntArray, scaler: Scaler) -> tuple[NDArray[np.float32], BoolArray]:
        """Return a batch of B bags, standardized and padded with zeros to the size of the largest, N.

        Returns:
            Bags (B, N, D), and a mask (B, N) that is True for regions and False for padding.
        """
        sizes = self.sizes[index]
        mask = np.arange(sizes.max()) < sizes[:, None]
        batch = np.zeros((*mask.shape, self.width), dtype=np.float32)
        batch[mask] = (self.features[self.regions_of(index)] - scaler.mean) / scaler.sd
        return batch, mask


def _require_shapes(bag_of_slide: Mapping[str, NDArray[np.floating]]) -> None:
    width = next(iter(bag_of_slide.values())).shape[-1]
    odd = [f"{slide} {bag.shape}" for slide, bag in bag_of_slide.items() if bag.ndim != 2 or bag.shape[1] != width]
    if odd:
        raise UsageError(
            f"{count(len(odd), 'slide does', 'slides do')} not have (regions, {width}) embeddings: {listed(odd)}.",
            hint="All bags of an evaluation must come from the same model.",
        )
    empty = [slide for slide, bag in bag_of_slide.items() if len(bag) == 0]
    if empty:
        raise UsageError(
            f"{count(len(empty), 'slide has', 'slides have')} no regions: {listed(empty)}.",
            hint="Remove them from the manifest.",
        )
