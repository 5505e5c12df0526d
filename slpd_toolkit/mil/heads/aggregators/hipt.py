"""HIPT's slide-level transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput
from slpd_toolkit.mil.heads.attention_pooling import GatedAttention, pool
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor


class SlideTransformer(Aggregator):
    """Third stage of HIPT (Chen et al., CVPR 2022), with its published layer sizes.

    One layer, two transformer blocks without position encoding, gated attention, one layer, and a linear classifier.
    """

    def __init__(self, width: int, outputs: int, *, hidden: int = 192, dropout: float = 0.25) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        block = nn.TransformerEncoderLayer(
            hidden, nhead=3, dim_feedforward=hidden, dropout=dropout, activation="relu", batch_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers=2, enable_nested_tensor=False)
        self.attention = GatedAttention(hidden, hidden, dropout=dropout)
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`."""
        regions = self.blocks(self.embed(bags), src_key_padding_mask=~mask)
        attention = self.attention(regions, mask)
        return BagOutput(self.head(pool(regions, attention)), attention)


HEAD = BagNetwork(SlideTransformer)
