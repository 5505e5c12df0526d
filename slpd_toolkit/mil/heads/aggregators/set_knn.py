"""Nearest neighbors by the matching of prototype sets, SLPD's similarity of slides.

The similarity of two slides is the largest total cosine of their vectors under optimal transport; see
`mil.set_similarity`. For `--model runs/slpd#prototypes` these vectors are the slides' prototypes. Slides with more than
8 vectors, such as bags of regions, are reduced to 4 prototypes. With one vector per slide it is the cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import torch

from slpd_toolkit.mil.heads.aggregators.knn import logits_of_neighbours, neighbour_counts
from slpd_toolkit.mil.heads.head import Head, HeadState, PartRows, TrainedHead, most_selected, single_thread
from slpd_toolkit.mil.heads.training_sets import similarities_to, training_sets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.heads.training import HeadTraining
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.readouts import VoteRule

_COUNT, _RULE, _VOTES = "neighbours", "rule", "votes"


class SetKnn(Head):
    """See the module."""

    in_workers: ClassVar = False

    def fit(
        self,
        bags: Bags,
        objective: Objective,
        rows: PartRows,
        training: HeadTraining,  # noqa: ARG002
        seeds: tuple[int, int],  # noqa: ARG002
    ) -> TrainedHead:
        """Keep the training slides; the number of neighbors is selected on val. See `Head.fit`."""
        val, sets = torch.tensor(rows.val), training_sets(bags, rows.train)
        votes = objective.votes(torch.tensor(rows.train)).float()
        order = _by_similarity(similarities_to(sets, bags, rows.val))
        with single_thread():
            losses = {
                count: objective.loss(logits_of_neighbours(votes, order[:, :count], objective.vote_rule), val)
                .mean()
                .item()
                for count in neighbour_counts(len(rows.train))
            }
        count = min(losses, key=lambda each: losses[each])
        options = {_COUNT: count, _RULE: objective.vote_rule}
        return TrainedHead(HeadState({**sets, _VOTES: votes.numpy()}, options), f"{count} neighbours")

    def refit(
        self,
        bags: Bags,
        objective: Objective,
        rows: IntArray,
        training: HeadTraining,  # noqa: ARG002
        seeds: tuple[int, int],  # noqa: ARG002
        settings: Sequence[str],
    ) -> TrainedHead:
        """See `Head.refit`; the number of neighbors that most folds selected is used."""
        counts = {f"{count} neighbours": count for count in neighbour_counts(len(rows))}
        setting = most_selected(settings, counts)
        votes = objective.votes(torch.tensor(rows)).float()
        options = {_COUNT: counts[setting], _RULE: objective.vote_rule}
        return TrainedHead(HeadState({**training_sets(bags, rows), _VOTES: votes.numpy()}, options), setting)

    def apply(
        self,
        state: HeadState,
        bags: Bags,
        rows: IntArray,
        known: Bags | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, tuple[FloatArray, ...]]:
        """See `Head.apply`."""
        order = _by_similarity(similarities_to(state.tensors, bags, rows))[:, : int(state.options[_COUNT])]
        with single_thread():
            return logits_of_neighbours(
                torch.tensor(state.tensors[_VOTES]), order, cast("VoteRule", state.options[_RULE])
            ), ()


def _by_similarity(found: FloatArray) -> Tensor:
    return torch.tensor(-found).argsort(dim=1, stable=True)


HEAD = SetKnn()
