"""Gated attention pooling (ABMIL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput
from slpd_toolkit.mil.heads.attention_pooling import GatedAttention, pool
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor


class AttentionMil(Aggregator):
    """Gated ABMIL (Ilse et al., ICML 2018): one layer per region, gated attention, and a linear classifier."""

    def __init__(self, width: int, outputs: int, *, hidden: int = 64, dropout: float = 0.25) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.attention = GatedAttention(hidden, hidden // 2)
        self.classifier = nn.Linear(hidden, outputs)

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`."""
        return self.aggregate(self.embed(bags), mask)

    def aggregate(self, regions: Tensor, mask: Tensor) -> BagOutput:
        """Compute logits from embedded regions, (B, N, hidden)."""
        attention = self.attention(regions, mask)
        return BagOutput(self.classifier(pool(regions, attention)), attention)


HEAD = BagNetwork(AttentionMil)
