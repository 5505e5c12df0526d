"""Views of slides: sets of their regions, drawn as a function of seed and step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from slpd_toolkit.core.readahead import read_ahead
from slpd_toolkit.models.slide_vit import SlideRegions
from slpd_toolkit.objectives.slide_distillation import SlideViews
from slpd_toolkit.training.sampling import Stream, generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.config.slide_vit import SlideViewsConfig
    from slpd_toolkit.training.sampling import Schedule

_BATCHES_AHEAD = 2


@dataclass(frozen=True, eq=False)
class SlideBags:
    """Regions of S slides in memory."""

    slides: tuple[str, ...]
    """S slide IDs."""
    values: npt.NDArray[np.float32]
    """(R, D) region vectors, slide after slide."""
    places: npt.NDArray[np.float32]
    """(R, 2) center of each region, in units of its side."""
    offsets: npt.NDArray[np.int64]
    """(S + 1,) the rows of slide i are offsets[i] to offsets[i + 1] - 1."""

    def centered(self) -> SlideBags:
        """Return the same regions relative to the mean region of their slide."""
        sizes = np.diff(self.offsets)
        means = np.add.reduceat(self.values.astype(np.float64), self.offsets[:-1]) / sizes[:, None]
        values = (self.values - np.repeat(means, sizes, axis=0)).astype(np.float32)
        return SlideBags(self.slides, values, self.places, self.offsets)


class SlideDraws(NamedTuple):
    """Random draws of one step."""

    depth: torch.Generator
    """Random generator of stochastic depth."""


@dataclass(frozen=True)
class SlideViewSource:
    """Generates the views of a batch as a function of seed and step."""

    bags: SlideBags
    config: SlideViewsConfig
    schedule: Schedule
    device: torch.device

    def batches(self, steps: range, *, workers: int) -> Iterator[tuple[int, Tensor, SlideViews]]:
        """Draw the views of the given steps in threads, a few steps ahead.

        Yields:
            Step, the (B,) indices of its slides, and their views.
        """
        with ThreadPoolExecutor(workers, thread_name_prefix="slide-views") as pool:
            batches = ((step, self.schedule.batch(step)) for step in steps)
            tasks = (((step, slides), partial(self.cut, step, slides)) for step, slides in batches)
            for (step, slides), future in read_ahead(pool, tasks, workers + _BATCHES_AHEAD):
                yield step, torch.from_numpy(slides), future.result()

    def cut(self, step: int, slides: npt.NDArray[np.int64]) -> SlideViews:
        """Draw the views of some slides at a step. The draws of a slide depend on no other slide of the batch."""
        config, ids = self.config, slides.tolist()
        draws = [np.random.default_rng([self.schedule.seed, Stream.VIEWS, step, slide]) for slide in ids]

        def views(count: int, least: float, most: float) -> list[npt.NDArray[np.int64]]:
            pairs = [*zip(ids, draws, strict=True)] * count
            return [self._view(slide, least, most, rng) for slide, rng in pairs]

        large = views(config.global_views, config.global_share, 1.0)
        small = views(config.local_views, config.local_share, config.global_share)
        packed = self._pack(large)
        hidden = np.zeros(packed.present.shape, bool)
        for mask, rows, rng in zip(hidden, large, draws * config.global_views, strict=True):
            mask[: len(rows)] = _hide(len(rows), config.hidden, rng)
        return SlideViews(packed, self._pack(small) if small else None, torch.from_numpy(hidden), len(ids))

    def draw(self, step: int) -> SlideDraws:
        """Make the random draws of a step that are not part of the batch."""
        return SlideDraws(generator(self.schedule.seed, Stream.DEPTH, step, self.schedule.rank, device=self.device))

    @staticmethod
    def views(batch: SlideViews, samples: Tensor, part: slice, draws: SlideDraws) -> SlideViews:
        """Return the views of a part of a batch; they were drawn with the batch."""
        del samples, draws
        return batch.part(part)

    def _view(self, slide: int, least: float, most: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw the rows of a view: the regions nearest to a random one, a random subset of them if there are many."""
        start, stop = self.bags.offsets[slide : slide + 2].tolist()
        places = self.bags.places[start:stop]
        count = max(1, round(len(places) * rng.uniform(least, most)))
        distance = np.square(places - places[rng.integers(len(places))]).sum(axis=1)
        near = np.argsort(distance + 1e-3 * rng.random(len(places)))[:count]
        if count > self.config.most_regions:
            near = rng.choice(near, self.config.most_regions, replace=False)
        rows: npt.NDArray[np.int64] = start + near
        return rows

    def _pack(self, views: Sequence[npt.NDArray[np.int64]]) -> SlideRegions:
        sizes = np.array([len(rows) for rows in views])
        present = np.arange(sizes.max()) < sizes[:, None]
        rows = np.zeros(present.shape, np.int64)
        rows[present] = np.concatenate(views)
        values, places = self.bags.values[rows], self.bags.places[rows]
        values[~present], places[~present] = 0, 0
        return SlideRegions(*map(torch.from_numpy, (values, places, present)))


def _hide(count: int, share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose regions to hide: `share` of them, at least one if any, and never all."""
    hidden = np.zeros(count, bool)
    if share and count > 1:
        hidden[rng.choice(count, min(max(1, round(share * count)), count - 1), replace=False)] = True
    return hidden
