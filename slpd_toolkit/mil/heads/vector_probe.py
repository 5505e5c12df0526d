"""Probes: simple models on one vector per slide, which evaluate a representation without multiple instance learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from slpd_toolkit.mil.heads.head import Head, HeadResult, HeadState, PartRows, TrainedHead, most_selected, single_thread
from slpd_toolkit.mil.tasks.readouts import LinearModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.heads.training import HeadTraining
    from slpd_toolkit.mil.tasks.likelihoods import Objective

_MEAN, _SCALE = "scaler.mean", "scaler.scale"


class SlideVectors(Protocol):
    """Reduces the bag of a slide to a vector."""

    def fit(self, bags: Bags, train: IntArray, seed: int) -> dict[str, NDArray[Any]]:
        """Learn from the training rows; empty if there is nothing to learn."""

    def compute(self, tensors: Mapping[str, NDArray[Any]], bags: Bags, rows: IntArray) -> NDArray[np.float32]:
        """Return the vectors of the slides at these positions, (n, D); each depends on its slide alone."""


class MeanVectors:
    """The mean embedding of a slide."""

    def fit(self, bags: Bags, train: IntArray, seed: int) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """See `SlideVectors.fit`."""
        return {}

    def compute(self, tensors: Mapping[str, NDArray[Any]], bags: Bags, rows: IntArray) -> NDArray[np.float32]:  # noqa: ARG002
        """See `SlideVectors.compute`."""
        return bags.mean()[rows]


class VectorModel(ABC):
    """A fitted model of standardized vectors."""

    compares: ClassVar[bool] = False
    """Whether it needs the training vectors."""

    @abstractmethod
    def __call__(self, embeddings: FloatArray) -> Tensor:
        """Return the logits of (n, D) standardized vectors, (n, outputs); each row depends on its vector alone."""

    @abstractmethod
    def state(self, train: IntArray) -> HeadState:
        """Return what `of_state` needs, given the (n,) training rows."""

    @classmethod
    @abstractmethod
    def of_state(cls, state: HeadState, known: Callable[[IntArray], FloatArray]) -> Self:
        """Rebuild the model.

        Args:
            state: Result of `state`.
            known: Maps training rows to their standardized vectors.
        """


@dataclass(frozen=True, eq=False)
class Linear(LinearModel, VectorModel):
    """A linear model."""

    def state(self, train: IntArray) -> HeadState:  # noqa: ARG002
        """See `VectorModel.state`."""
        return HeadState({"coefficients": self.coefficients, "intercepts": self.intercepts}, {})

    @classmethod
    def of_state(cls, state: HeadState, known: Callable[[IntArray], FloatArray]) -> Self:  # noqa: ARG003
        """See `VectorModel.of_state`."""
        return cls(state.tensors["coefficients"], state.tensors["intercepts"])


@dataclass(frozen=True)
class VectorProbe(Head):
    """A model of slide vectors with one setting, selected on the validation part."""

    in_workers: ClassVar = False

    vectors: SlideVectors
    fit_models: Callable[[FloatArray, Objective, Tensor], Iterator[tuple[str, VectorModel]]]
    """Function of standardized training vectors (n, D), an objective and (n,) rows that fits a model per setting."""
    model: type[VectorModel]
    """Class of these models."""

    @property
    def compares(self) -> bool:  # type: ignore[override]
        """Whether predictions need the mean embeddings of the training slides."""
        return self.model.compares

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether predictions are linear in the slide vectors."""
        return not self.model.compares

    def fit(
        self,
        bags: Bags,
        objective: Objective,
        rows: PartRows,
        training: HeadTraining,  # noqa: ARG002
        seeds: tuple[int, int],
    ) -> TrainedHead:
        """Fit a model on train for each setting, and select the one with the lowest loss on val."""
        with single_thread(), _thread_pools().limit(limits=1):
            learned = self.vectors.fit(bags, rows.train, seeds[0])
            vectors = self.vectors.compute(learned, bags, np.arange(len(bags.slides)))
            setting, model, scaler = self._select(vectors, objective, rows)
        return TrainedHead(_state(learned, scaler, model, rows.train), setting)

    def refit(
        self,
        bags: Bags,
        objective: Objective,
        rows: IntArray,
        training: HeadTraining,  # noqa: ARG002
        seeds: tuple[int, int],
        settings: Sequence[str],
    ) -> TrainedHead:
        """See `Head.refit`; the setting that most folds selected is used."""
        with single_thread(), _thread_pools().limit(limits=1):
            learned = self.vectors.fit(bags, rows, seeds[0])
            scaler = _fit_scaler(self.vectors.compute(learned, bags, rows))
            vectors = _scale(self.vectors.compute(learned, bags, rows), scaler)
            models = dict(self.fit_models(vectors, objective, torch.tensor(rows)))
        setting = most_selected(settings, models)
        return TrainedHead(_state(learned, scaler, models[setting], rows), setting)

    def apply(
        self, state: HeadState, bags: Bags, rows: IntArray, known: Bags | None = None
    ) -> tuple[Tensor, tuple[FloatArray, ...]]:
        """See `Head.apply`."""
        scaler = state.tensors[_MEAN], state.tensors[_SCALE]
        training = bags if known is None else known

        def standardized(members: IntArray) -> FloatArray:
            return _scale(self.vectors.compute(state.tensors, training, members), scaler)

        with single_thread(), _thread_pools().limit(limits=1):
            model = self.model.of_state(state, standardized)
            return model(_scale(self.vectors.compute(state.tensors, bags, rows), scaler)), ()

    def select(self, vectors: NDArray[np.float32], objective: Objective, rows: PartRows) -> HeadResult:
        """Fit and select on the given vectors, and predict the test part.

        Args:
            vectors: (S, D) vectors of all slides; standardized with those of train.
            objective: Result of `Task.objective` for the same training rows.
            rows: The split.
        """
        setting, model, scaler = self._select(vectors, objective, rows)
        return HeadResult(model(_scale(vectors[rows.test], scaler)), setting)

    def _select(
        self, vectors: NDArray[np.float32], objective: Objective, rows: PartRows
    ) -> tuple[str, VectorModel, tuple[FloatArray, FloatArray]]:
        scaler = _fit_scaler(vectors[rows.train])
        known, seen = (_scale(vectors[part], scaler) for part in (rows.train, rows.val))
        losses = {
            setting: (objective.loss(model(seen), torch.tensor(rows.val)).mean().item(), model)
            for setting, model in self.fit_models(known, objective, torch.tensor(rows.train))
        }
        setting = min(losses, key=lambda each: losses[each][0])
        return setting, losses[setting][1], scaler


def _state(
    learned: Mapping[str, NDArray[Any]], scaler: tuple[FloatArray, FloatArray], model: VectorModel, train: IntArray
) -> HeadState:
    found = model.state(train)
    return HeadState({**learned, _MEAN: scaler[0], _SCALE: scaler[1], **found.tensors}, found.options)


def _fit_scaler(vectors: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each feature; 1 where a feature does not vary."""
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    return scaler.mean_, scaler.scale_


def _scale(vectors: NDArray[np.float32], scaler: tuple[FloatArray, FloatArray]) -> FloatArray:
    scaled: FloatArray = (vectors.astype(np.float64) - scaler[0]) / scaler[1]
    return scaled


@cache
def _thread_pools() -> ThreadpoolController:
    """Find the thread pools of NumPy, SciPy and scikit-learn: the search takes longer than many a probe."""
    return ThreadpoolController()
