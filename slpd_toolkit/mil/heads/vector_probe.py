"""Probes: simple models on one vector per slide, which evaluate a representation without multiple instance learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from slpd_toolkit.mil.heads.head import Head, HeadResult, PartRows, single_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.heads.training import HeadTraining
    from slpd_toolkit.mil.tasks.likelihoods import Fitted, Objective


@dataclass(frozen=True)
class VectorProbe(Head):
    """A model of slide vectors with one setting, selected on the validation part."""

    in_workers: ClassVar = False

    vectors: Callable[[Bags, IntArray, int], NDArray[np.float32]]
    """Function of bags, training rows and a seed that returns the vectors of all slides, (S, D)."""
    fit: Callable[[FloatArray, Objective, Tensor], Iterator[tuple[str, Fitted]]]
    """Function of standardized training vectors (n, D), an objective and (n,) rows that fits a model per setting."""

    def train_and_predict(
        self,
        bags: Bags,
        objective: Objective,
        rows: PartRows,
        training: HeadTraining,  # noqa: ARG002
        seeds: tuple[int, int],
    ) -> HeadResult:
        """Fit a model on train for each setting, select the one with the lowest loss on val, and apply it to test."""
        with single_thread(), threadpool_limits(1):
            return self.select(self.vectors(bags, rows.train, seeds[0]), objective, rows)

    def select(self, vectors: NDArray[np.float32], objective: Objective, rows: PartRows) -> HeadResult:
        """Fit and select on the given vectors.

        Args:
            vectors: (S, D) vectors of all slides; standardized with those of train.
            objective: Result of `Task.objective` for the same training rows.
            rows: The split.
        """
        scaler = StandardScaler().fit(vectors[rows.train].astype(np.float64))
        known, seen, unseen = (
            scaler.transform(vectors[part].astype(np.float64)) for part in (rows.train, rows.val, rows.test)
        )
        losses = {
            setting: (objective.loss(fitted(seen), torch.tensor(rows.val)).mean().item(), fitted)
            for setting, fitted in self.fit(known, objective, torch.tensor(rows.train))
        }
        setting = min(losses, key=lambda each: losses[each][0])
        return HeadResult(losses[setting][1](unseen), setting)


def mean_vectors(bags: Bags, train: IntArray, seed: int) -> NDArray[np.float32]:  # noqa: ARG001
    """Return the mean embedding of each slide, (S, D)."""
    return bags.mean()
