"""HIPT's slide-level transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput
from slpd_toolkit.mil.heads.attention_pooling import GatedAttention, pool
from slpd_toolkit.mil.heads.bag_attention import is_small, self_attention
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor


class SlideTransformer(Aggregator):
    """Third stage of HIPT (Chen et al., CVPR 2022), with its published layer sizes.

    One layer, two transformer blocks without position encoding, gated attention, one layer, and a linear classifier.
    Bags with more than 8 192 regions use the Nystroem approximation of attention (see `bag_attention`).
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
        regions = self.embed(bags)
        for block in self.blocks.layers:
            assert isinstance(block, nn.TransformerEncoderLayer)
            regions = _encode(block, regions, ~mask)
        attention = self.attention(regions, mask)
        return BagOutput(self.head(pool(regions, attention)), attention)


def _encode(block: nn.TransformerEncoderLayer, regions: Tensor, padding: Tensor) -> Tensor:
    """Apply a block to (B, N, hidden) regions."""
    attention = block.self_attn
    if is_small(regions, attention.num_heads):
        encoded: Tensor = block(regions, src_key_padding_mask=padding)
        return encoded
    regions = block.norm1(regions + block.dropout1(self_attention(attention, regions, padding)))
    hidden = block.linear2(block.dropout(block.linear1(regions).relu()))
    return block.norm2(regions + block.dropout2(hidden))  # type: ignore[no-any-return]


HEAD = BagNetwork(SlideTransformer)
