"""Mean pooling, and gated attention pooling (ABMIL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from slpd_toolkit.mil.heads.aggregators.aggregator import Aggregator, BagOutput, masked_softmax

if TYPE_CHECKING:
    from torch import Tensor


class MeanPoolMlp(Aggregator):
    """The mean of a bag through a two-layer MLP: what attention has to beat."""

    def __init__(self, width: int, outputs: int, *, hidden: int = 64, dropout: float = 0.25) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`."""
        attention = mask / mask.sum(dim=1, keepdim=True)
        return BagOutput(self.head(pool(bags, attention)), attention)


class GatedAttention(nn.Module):
    """Attention scores of a bag: w^T (tanh(V h) * sigmoid(U h)) (Ilse et al., ICML 2018, equation 9)."""

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, 1)

    def forward(self, bags: Tensor, mask: Tensor) -> Tensor:
        """(B, N, width) and (B, N) -> (B, N) attention."""
        return masked_softmax(self.score(self.content(bags) * self.gate(bags)).squeeze(2), mask)


class AttentionMil(Aggregator):
    """Gated ABMIL (Ilse et al., ICML 2018): regions through one layer, gated attention, one linear layer."""

    def __init__(self, width: int, outputs: int, *, hidden: int = 64, dropout: float = 0.25) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.attention = GatedAttention(hidden, hidden // 2)
        self.classifier = nn.Linear(hidden, outputs)

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`."""
        return self.aggregate(self.embed(bags), mask)

    def aggregate(self, regions: Tensor, mask: Tensor) -> BagOutput:
        """(B, N, hidden) embedded regions to logits."""
        attention = self.attention(regions, mask)
        return BagOutput(self.classifier(pool(regions, attention)), attention)


def pool(bags: Tensor, attention: Tensor) -> Tensor:
    """(B, N, D) bags, weighted by (B, N) attention -> (B, D)."""
    return torch.bmm(attention.unsqueeze(1), bags).squeeze(1)
