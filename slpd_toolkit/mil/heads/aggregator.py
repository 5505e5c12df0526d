"""Base class of networks that map bags of region embeddings to slide logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from slpd_toolkit.mil.tasks.likelihoods import Objective


class BagOutput(NamedTuple):
    """Output of an aggregator for B bags, padded to N regions."""

    logits: Tensor
    """(B, outputs)"""
    attention: Tensor
    """(B, N) attention weight of each region: sums to 1, and is 0 for padding."""


class Aggregator(nn.Module, ABC):
    """Maps a bag to logits. The output for a bag depends neither on padding nor on the other bags in the batch."""

    @abstractmethod
    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """Aggregate B bags.

        Args:
            bags: (B, N, width) region embeddings, padded to the largest bag.
            mask: (B, N) bool, True for regions, at least one per bag; False for padding.
        """

    @classmethod
    def check(cls, objective: Objective) -> None:
        """Check that the aggregator supports an objective.

        Raises:
            UsageError: It does not.
        """

    @classmethod
    def for_objective(cls, width: int, objective: Objective) -> Self:
        """Build the aggregator, with initial weights from PyTorch's global generator.

        Args:
            width: Width of the region embeddings.
            objective: Training objective.
        """
        cls.check(objective)
        return cls(**cls.sizes(width, objective))

    @classmethod
    def sizes(cls, width: int, objective: Objective) -> dict[str, int]:
        """Return the arguments that build the aggregator; stored heads are rebuilt from them."""
        return {"width": width, "outputs": objective.outputs}

    def training_loss(self, bags: Tensor, mask: Tensor, objective: Objective, rows: Tensor) -> Tensor:
        """Compute the loss of the bags of slides `rows`, (B,). Overridden by aggregators with several loss terms."""
        return objective.loss(self(bags, mask).logits, rows)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Compute the softmax over regions from (B, N, ...) scores and a (B, N) mask; weights are 0 for padding."""
    outside = ~mask.reshape(*mask.shape, *([1] * (scores.ndim - mask.ndim)))
    return scores.masked_fill(outside, float("-inf")).softmax(dim=1)
