"""DS-MIL, attention by similarity to the critical region of each class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput, masked_softmax
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.mil.tasks.likelihoods import Objective


class DsMil(Aggregator):
    """Dual-stream MIL (Li et al., CVPR 2021): mean of a max-pooled region classifier and an attention stream.

    Args:
        width: Width of the region embeddings.
        outputs: Number of logits.
        hidden: Width of the queries.
        dropout: Dropout on the values.
    """

    def __init__(self, width: int, outputs: int, *, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__()
        self.region_classifier = nn.Linear(width, outputs)
        self.query = nn.Linear(width, hidden)
        self.value = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width))
        self.bag_classifier = nn.Linear(outputs * width, outputs)

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`. The attention is the mean over the attentions of all logits."""
        of_regions, of_bag, attention = self.streams(bags, mask)
        return BagOutput((of_regions + of_bag) / 2, attention.mean(dim=2))

    def training_loss(self, bags: Tensor, mask: Tensor, objective: Objective, rows: Tensor) -> Tensor:
        """Compute the mean loss of the two streams, (B,)."""
        of_regions, of_bag, _ = self.streams(bags, mask)
        return (objective.loss(of_regions, rows) + objective.loss(of_bag, rows)) / 2

    def streams(self, bags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute both streams of B bags.

        Returns:
            The highest logit over regions, (B, outputs); the logits of the attention stream, (B, outputs); and its
            attention, (B, N, outputs): per logit, the similarity of a region's query to that of the critical region.
        """
        scores = self.region_classifier(bags).masked_fill(~mask.unsqueeze(2), float("-inf"))
        of_regions, critical = scores.max(dim=1)
        queries = self.query(bags)
        of_critical = queries.gather(1, critical.unsqueeze(2).expand(-1, -1, queries.shape[2]))
        likeness = torch.einsum("bnq,boq->bno", queries, of_critical) / math.sqrt(queries.shape[2])
        attention = masked_softmax(likeness, mask)
        pooled = torch.einsum("bno,bnd->bod", attention, self.value(bags))
        return of_regions, self.bag_classifier(pooled.flatten(1)), attention


HEAD = BagNetwork(DsMil)
