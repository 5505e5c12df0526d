"""Pooling by gated attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from slpd_toolkit.mil.heads.aggregator import masked_softmax

if TYPE_CHECKING:
    from torch import Tensor


class GatedAttention(nn.Module):
    """Attention scores of a bag: w^T (tanh(V h) * sigmoid(U h)) (Ilse et al., ICML 2018, equation 9)."""

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, 1)

    def forward(self, bags: Tensor, mask: Tensor) -> Tensor:
        """Compute attention weights, (B, N), from bags (B, N, width) and a mask (B, N)."""
        return masked_softmax(self.score(self.content(bags) * self.gate(bags)).squeeze(2), mask)


def pool(bags: Tensor, attention: Tensor) -> Tensor:
    """Compute the mean of (B, N, D) bags weighted by (B, N) attention, (B, D)."""
    return torch.bmm(attention.unsqueeze(1), bags).squeeze(1)
