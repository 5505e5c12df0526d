"""Nearest neighbors on the mean embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, cast

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from slpd_toolkit.mil.heads.head import HeadState
from slpd_toolkit.mil.heads.vector_probe import MeanVectors, VectorModel, VectorProbe
from slpd_toolkit.mil.tasks.readouts import logits_of_votes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.readouts import VoteRule

_NEIGHBOURS = (5, 10, 20, 40)
_SPARE = 16


@dataclass(frozen=True, eq=False)
class Neighbours(VectorModel):
    """K nearest neighbors by Euclidean distance; predicts the estimate of least loss for K slides.

    One additional neighbor represents the average slide, so that no prediction is certain.
    """

    compares: ClassVar = True

    known: FloatArray
    """(n, D) training vectors."""
    index: NearestNeighbors
    """Index of these."""
    votes: Tensor
    """(n, E) votes of the training slides; see `Objective.votes`."""
    rule: VoteRule
    count: int
    """K."""

    def __call__(self, embeddings: FloatArray) -> Tensor:
        """See `VectorModel.__call__`."""
        return logits_of_neighbours(self.votes, torch.from_numpy(self._nearest(embeddings)), self.rule)

    def _nearest(self, embeddings: FloatArray) -> IntArray:
        """Return the (q, K) nearest training vectors.

        The index rounds distances in a way that depends on the other queries. A few more candidates than needed are
        therefore sorted by exact differences, and equal ones by position.
        """
        candidates = self.index.kneighbors(embeddings, min(self.count + _SPARE, len(self.known)), return_distance=False)
        candidates = np.sort(candidates, axis=1).astype(np.int64)
        distances = np.stack(
            [np.square(self.known[row] - query).sum(axis=1) for row, query in zip(candidates, embeddings, strict=True)]
        )
        order = np.argsort(distances, axis=1, kind="stable")[:, : self.count]
        return np.take_along_axis(candidates, order, axis=1)

    def state(self, train: IntArray) -> HeadState:
        """See `VectorModel.state`."""
        return HeadState({"members": train, "votes": self.votes.numpy()}, {"neighbours": self.count, "rule": self.rule})

    @classmethod
    def of_state(cls, state: HeadState, known: Callable[[IntArray], FloatArray]) -> Self:
        """See `VectorModel.of_state`."""
        vectors = known(state.tensors["members"])
        votes, rule = torch.tensor(state.tensors["votes"]), cast("VoteRule", state.options["rule"])
        return cls(vectors, NearestNeighbors().fit(vectors), votes, rule, int(state.options["neighbours"]))


def fit_neighbours(known: FloatArray, objective: Objective, rows: Tensor) -> Iterator[tuple[str, Neighbours]]:
    """Fit nearest neighbors for several K.

    Args:
        known: (n, D) embeddings of the training slides.
        objective: Objective to estimate from neighbors.
        rows: (n,) positions of these slides.
    """
    index, votes = NearestNeighbors().fit(known), objective.votes(rows).float()
    for count in neighbour_counts(len(rows)):
        yield f"{count} neighbours", Neighbours(known, index, votes, objective.vote_rule, count)


def logits_of_neighbours(votes: Tensor, nearest: Tensor, rule: VoteRule) -> Tensor:
    """Return the logits of least loss for K neighbors and the average slide as one more.

    Args:
        votes: (n, E) votes of the training slides.
        nearest: (q, K) training slides.
        rule: Conversion of mean votes to logits.
    """
    average = votes.mean(dim=0)
    means = [(votes[each].sum(dim=0) + average) / (len(each) + 1) for each in nearest]
    return torch.cat([logits_of_votes(rule, mean[None]) for mean in means])


def neighbour_counts(known: int) -> list[int]:
    """Return the numbers of neighbors to select from, given the number of training slides.

    With more than half of the slides as neighbors, predictions hardly differ between slides.
    """
    return [count for count in _NEIGHBOURS if 2 * count <= known] or [max(1, known // 2)]


HEAD = VectorProbe(MeanVectors(), fit_neighbours, Neighbours)
