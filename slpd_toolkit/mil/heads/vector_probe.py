"""Probes: a simple model on one vector per slide. What a representation shows without multiple instance learning."""

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
    """A model of slide vectors whose one setting the validation part selects."""

    in_workers: ClassVar = False

    vectors: Callable[[Bags, IntArray, int], NDArray[np.float32]]
    """Bags, training rows and a seed to the (S, D) vector of every slide."""
    fit: Callable[[FloatArray, Objective, Tensor], Iterator[tuple[str, Fitted]]]
    """(n, D) standardised training vectors, an objective and their (n,) rows to a fitted model for each setting."""

    def train_and_predict(
        self,
        bags: Bags,
        objective: Objective,
        rows: PartRows,
        training: HeadTraining,  # noqa: ARG002
        seeds: tuple[int, int],
    ) -> HeadResult:
        """Fit a model on train with each setting, take the one of least loss on val, apply it to test."""
        with single_thread(), threadpool_limits(1):
            return self.select(self.vectors(bags, rows.train, seeds[0]), objective, rows)

    def select(self, vectors: NDArray[np.float32], objective: Objective, rows: PartRows) -> HeadResult:
        """Fit and select on given vectors.

        Args:
            vectors: (S, D) vector of every slide; standardised by those of train.
            objective: From `Task.objective` of the same training rows.
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
    """(S, D) mean embedding of each slide."""
    return bags.mean()
