"""Networks from bags of region embeddings to the logits of slides."""

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
    """(B, N) share of each region in the slide's representation: sums to 1, and is 0 in the padding."""


class Aggregator(nn.Module, ABC):
    """A bag to logits. Neither the padding nor the other bags of the batch ever change a bag's output."""

    @abstractmethod
    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """Aggregate B bags.

        Args:
            bags: (B, N, width) region embeddings, padded to the largest bag.
            mask: (B, N) bool, true where there is a region: at least one per bag.
        """

    @classmethod
    def check(cls, objective: Objective) -> None:
        """Check that the aggregator can learn an objective.

        Raises:
            UsageError: It cannot.
        """

    @classmethod
    def for_objective(cls, width: int, objective: Objective) -> Self:
        """Build the aggregator with initial weights from torch's global generator.

        Args:
            width: Width of a region embedding.
            objective: What it will be trained on.
        """
        return cls(width, objective.outputs)

    def training_loss(self, bags: Tensor, mask: Tensor, objective: Objective, rows: Tensor) -> Tensor:
        """(B,) loss of these bags; `rows` (B,) says which slides they are. Overridden where it has several terms."""
        return objective.loss(self(bags, mask).logits, rows)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the regions of each bag: (B, N, ...) scores and (B, N) mask to weights that are 0 in the padding."""
    outside = ~mask.reshape(*mask.shape, *([1] * (scores.ndim - mask.ndim)))
    return scores.masked_fill(outside, float("-inf")).softmax(dim=1)
