"""Sampling of regions and all random draws, as functions of seed and step only, so that no random state is saved.

Region order and crops are drawn for all processes and then split, so that two processes train like one with twice the
batch size. Stochastic depth and token augmentation are drawn by each process separately, on its device.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.readahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.store.cohort_tokens import CohortTokens

_BATCHES_AHEAD = 2


class Stream(IntEnum):
    """Independent sources of randomness."""

    WEIGHTS = 0
    ORDER = 1
    VIEWS = 2
    DEPTH = 3
    AUGMENTATION = 4
    SPREAD = 5
    STAIN = 6
    WHITENING = 7


def generator(seed: int, stream: Stream, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Create the random generator of a stream at one point of the run (an epoch, or a step and a process)."""
    (state,) = np.random.SeedSequence([seed, stream, *counters]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class Schedule:
    """Assignment of steps to epochs, and of the regions of each step to processes."""

    regions: int
    batch_size: int
    """Number of regions per step and process."""
    rank: int
    world: int
    seed: int
    samples: str = "regions"
    """What is sampled: regions or slides; their number is `regions`."""

    def __post_init__(self) -> None:
        """Raise an error if the cohort is smaller than a batch."""
        if self.global_batch > self.regions:
            raise UsageError(
                f"--batch-size: {self.batch_size} x {self.world} processes is more than the {self.regions} "
                f"{self.samples} in the cache.",
                hint=f"Use at most {max(1, self.regions // self.world)}.",
            )

    @property
    def global_batch(self) -> int:
        """Number of regions per step, over all processes."""
        return self.batch_size * self.world

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in the cohort; the remainder, different in each epoch, is dropped."""
        return self.regions // self.global_batch

    def epoch_of(self, step: int) -> int:
        """Epoch of a step, both counted from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Return the (batch_size,) regions of this process at a step."""
        order = _order(self.regions, self.seed, self.epoch_of(step))
        first = (step % self.steps_per_epoch) * self.global_batch + self.rank * self.batch_size
        return order[first : first + self.batch_size]

    @property
    def part(self) -> slice:
        """Slice of a step's regions that belongs to this process."""
        return slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)


@lru_cache(maxsize=2)
def _order(regions: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch; cached, because each step of the epoch uses it."""
    order: npt.NDArray[np.int64] = torch.randperm(regions, generator=generator(seed, Stream.ORDER, epoch)).numpy()
    return order


def read_batches(
    tokens: CohortTokens, schedule: Schedule, steps: range, *, workers: int, pin_memory: bool
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Read the batches of the given steps in threads, a few steps ahead.

    Yields:
        Step, the (B,) indices of its regions, and their (B, grid, grid, D) tokens.

    Raises:
        CacheError: A token file can no longer be read.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="token-reader") as pool:
        batches = ((step, schedule.batch(step)) for step in steps)
        tasks = (((step, regions), partial(tokens.read, regions, pin_memory=pin_memory)) for step, regions in batches)
        for (step, regions), future in read_ahead(pool, tasks, workers + _BATCHES_AHEAD):
            yield step, torch.from_numpy(regions), future.result()
