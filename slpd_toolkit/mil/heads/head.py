"""Base class of heads, which learn from the training part of a split and predict its test part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from slpd_toolkit.config.mil_eval import AGGREGATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.heads.training import Check, HeadTraining
    from slpd_toolkit.mil.tasks.likelihoods import Objective


@dataclass(frozen=True, eq=False)
class PartRows:
    """Parts of a split as positions in the bags and targets."""

    train: IntArray
    val: IntArray
    test: IntArray


@dataclass(frozen=True, eq=False)
class HeadResult:
    """Predictions of a trained head for the test part."""

    logits: Tensor
    """(n, outputs)"""
    setting: str
    """Setting selected on the validation part: number of steps, number of neighbors, or penalty."""
    attention: tuple[FloatArray, ...] = ()
    """Attention weights of the regions of each test slide; empty for heads without attention."""
    checks: tuple[Check, ...] = ()
    """Checks of the validation loss; empty for heads that are not trained in steps."""


class Head(ABC):
    """Predicts slides from their regions. Each file of `aggregators/` defines one as `HEAD`."""

    in_workers: ClassVar[bool]
    """Whether folds run in worker processes, which does not pay off if a fold is faster than starting a process."""

    def check(self, objective: Objective) -> None:  # noqa: B027
        """Check that the head supports an objective.

        Raises:
            UsageError: It does not.
        """

    @abstractmethod
    def train_and_predict(
        self, bags: Bags, objective: Objective, rows: PartRows, training: HeadTraining, seeds: tuple[int, int]
    ) -> HeadResult:
        """Train on train, select on val, predict test. Deterministic: equal arguments give equal results.

        Args:
            bags: All slides.
            objective: Result of `Task.objective` for the training rows.
            rows: The split.
            training: Training settings of networks.
            seeds: Seed of initial weights and dropout (or of clustering), and seed of the order of slides.
        """


def load_head(name: str) -> Head:
    """Import an aggregator.

    Raises:
        UsageError: There is none with this name; the message lists those that exist.
    """
    found: Head = AGGREGATORS.load(name).HEAD
    return found


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit PyTorch to one thread: sums depend on the number of threads, and workers must not compete for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
