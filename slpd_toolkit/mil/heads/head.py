"""What every head does: learn from the training part of one split, and predict its test part."""

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
    """The parts of a split as positions in the bags and the targets."""

    train: IntArray
    val: IntArray
    test: IntArray


@dataclass(frozen=True, eq=False)
class HeadResult:
    """What a trained head predicts for the test part."""

    logits: Tensor
    """(n, outputs)"""
    setting: str
    """What the validation part chose: a number of steps, of neighbours, a penalty."""
    attention: tuple[FloatArray, ...] = ()
    """For each test slide the share of each of its regions; empty for heads without attention."""
    checks: tuple[Check, ...] = ()
    """The checks of the validation loss; empty for heads that are not trained in steps."""


class Head(ABC):
    """How slides are predicted from their regions. Each file of `aggregators/` names one as `HEAD`."""

    in_workers: ClassVar[bool]
    """Whether folds run in worker processes; not worth it where a fold takes less time than a process's start."""

    def check(self, objective: Objective) -> None:  # noqa: B027
        """Check that the head can learn an objective.

        Raises:
            UsageError: It cannot.
        """

    @abstractmethod
    def train_and_predict(
        self, bags: Bags, objective: Objective, rows: PartRows, training: HeadTraining, seeds: tuple[int, int]
    ) -> HeadResult:
        """Learn from train, select on val, predict test. Equal arguments give equal results in any process.

        Args:
            bags: All slides.
            objective: From `Task.objective` of the training rows.
            rows: The split.
            training: How networks are trained.
            seeds: Source of initial weights and dropout (or of clustering), and source of the order of slides.
        """


def load_head(name: str) -> Head:
    """Import an aggregator.

    Raises:
        UsageError: There is none of this name; the message lists those that exist.
    """
    found: Head = AGGREGATORS.load(name).HEAD
    return found


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one thread: sums depend on the number of threads, and workers must not compete for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
