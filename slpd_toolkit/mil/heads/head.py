"""Base class of heads, which learn from the training part of a split and predict its test part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from slpd_toolkit.config.mil_eval import AGGREGATORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
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
class HeadState:
    """State of a trained head: exactly what predictions need."""

    tensors: Mapping[str, NDArray[Any]]
    """Learned values by name."""
    options: Mapping[str, str | int]
    """What is not learned, such as the sizes of a network."""
    descriptor: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Parameters of the descriptor that was fitted on the head's training slides, and whose vectors the head takes;
    empty without one."""
    known_means: NDArray[np.float32] | None = None
    """(S, D) mean descriptors of the slides that `Head.fit` was given, for heads that compare; None without a fitted
    descriptor."""


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head after training."""

    state: HeadState
    setting: str
    """Setting selected on the validation part: number of steps, number of neighbors, or penalty."""
    checks: tuple[Check, ...] = ()
    """Checks of the validation loss; empty for heads that are not trained in steps."""


@dataclass(frozen=True, eq=False)
class HeadResult:
    """A trained head and its predictions."""

    logits: Tensor
    """(n, outputs) of the test part."""
    setting: str
    """See `TrainedHead`."""
    attention: tuple[FloatArray, ...] = ()
    """Attention weights of the regions of each test slide; empty for heads without attention."""
    checks: tuple[Check, ...] = ()
    """See `TrainedHead`."""
    val_logits: Tensor | None = None
    """(v, outputs) of the validation part, for calibration and thresholds."""
    state: HeadState | None = None
    """The head itself."""


class Head(ABC):
    """Predicts slides from their regions. Each file of `aggregators/` defines one as `HEAD`."""

    in_workers: ClassVar[bool]
    """Whether folds run in worker processes, which does not pay off if a fold is faster than starting a process."""
    compares: bool = False
    """Whether predictions need the mean embeddings of the training slides."""
    linear: bool = False
    """Whether predictions are linear in the slide vectors: see `intervals.Evidence.linear`."""

    def check(self, objective: Objective) -> None:  # noqa: B027
        """Check that the head supports an objective.

        Raises:
            UsageError: It does not.
        """

    @abstractmethod
    def fit(
        self, bags: Bags, objective: Objective, rows: PartRows, training: HeadTraining, seeds: tuple[int, int]
    ) -> TrainedHead:
        """Train on train and select on val. Deterministic: equal arguments give equal results.

        Args:
            bags: All slides.
            objective: Result of `Task.objective` for the training rows.
            rows: The split; its test part is not used.
            training: Training settings of networks.
            seeds: Seed of initial weights and dropout (or of clustering), and seed of the order of slides.
        """

    @abstractmethod
    def refit(
        self,
        bags: Bags,
        objective: Objective,
        rows: IntArray,
        training: HeadTraining,
        seeds: tuple[int, int],
        settings: Sequence[str],
    ) -> TrainedHead:
        """Train on all of `rows`, without a validation part.

        Args:
            bags: All slides.
            objective: Result of `Task.objective` for these rows.
            rows: Training rows.
            training: Training settings of networks.
            seeds: As in `fit`.
            settings: Settings that were selected in the folds; a typical one is used.
        """

    @abstractmethod
    def apply(
        self, state: HeadState, bags: Bags, rows: IntArray, known: Bags | None = None
    ) -> tuple[Tensor, tuple[FloatArray, ...]]:
        """Predict slides.

        The prediction of a slide does not depend on the others, to the last bit, so that a stored head repeats the
        predictions of an evaluation.

        Args:
            state: Result of `fit`.
            bags: The slides.
            rows: (n,) positions of the slides to predict.
            known: The slides that `fit` was given, or their mean embeddings; None if they are `bags`. Needed only by
                heads that compare.

        Returns:
            Logits (n, outputs), and the attention weights of each slide's regions; none for heads without attention.
        """

    def train_and_predict(
        self, bags: Bags, objective: Objective, rows: PartRows, training: HeadTraining, seeds: tuple[int, int]
    ) -> HeadResult:
        """Train on train, select on val, and predict val and test; see `fit` and `apply`."""
        trained = self.fit(bags, objective, rows, training, seeds)
        logits, attention = self.apply(trained.state, bags, rows.test)
        val_logits, _ = self.apply(trained.state, bags, rows.val)
        return HeadResult(logits, trained.setting, attention, trained.checks, val_logits, trained.state)


def load_head(name: str) -> Head:
    """Import an aggregator.

    Raises:
        UsageError: There is none with this name; the message lists those that exist.
    """
    found: Head = AGGREGATORS.load(name).HEAD
    return found


def most_selected(settings: Sequence[str], allowed: Iterable[str]) -> str:
    """Return the setting that most folds selected, of those that are allowed; the first allowed one if none was."""
    names = list(allowed)
    wanted = Counter(name for name in settings if name in names).most_common(1)
    return wanted[0][0] if wanted else names[0]


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit PyTorch to one thread: sums depend on the number of threads, and workers must not compete for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
