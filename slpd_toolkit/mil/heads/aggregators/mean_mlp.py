"""Mean pooling and a two-layer MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput
from slpd_toolkit.mil.heads.attention_pooling import pool
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor


class MeanPoolMlp(Aggregator):
    """Two-layer MLP on the mean of a bag: the baseline for attention pooling."""

    def __init__(self, width: int, outputs: int, *, hidden: int = 64, dropout: float = 0.25) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`."""
        attention = mask / mask.sum(dim=1, keepdim=True)
        return BagOutput(self.head(pool(bags, attention)), attention)


HEAD = BagNetwork(MeanPoolMlp)
