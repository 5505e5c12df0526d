"""TransMIL, self-attention over the bag laid out as a square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput
from slpd_toolkit.mil.heads.bag_attention import self_attention
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor


class TransMil(Aggregator):
    """TransMIL (Shao et al., NeurIPS 2021).

    Deviations: attention is exact for bags of up to 8 192 regions. The paper uses the Nystroem approximation for all
    bags; here only larger ones do, each without padding (see `bag_attention`). The last layer computes only the class
    token, because no other token is used.

    The order of regions matters, by design: the bag is arranged in a square in row-major order, padded with its first
    regions.

    Args:
        width: Width of the region embeddings.
        outputs: Number of logits.
        hidden: Width of the tokens, with eight heads.
        dropout: Dropout on the attention weights.
    """

    def __init__(self, width: int, outputs: int, *, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, 1, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(hidden, 8, dropout=dropout, batch_first=True) for _ in range(2)
        )
        self.positions = SquareConvolution(hidden)
        self.classifier = nn.Linear(hidden, outputs)

    def forward(self, bags: Tensor, mask: Tensor) -> BagOutput:
        """See `Aggregator.forward`. The attention is that of the class token in the last layer, averaged over heads."""
        sizes = mask.sum(dim=1)
        sides = torch.ceil(sizes.sqrt()).long()
        place = torch.arange(int(sides.max()) ** 2).expand(len(bags), -1)
        filled = place < sides.unsqueeze(1) ** 2
        source = torch.where(place < sizes.unsqueeze(1), place, place - sizes.unsqueeze(1)).masked_fill(~filled, 0)
        tokens = self.embed(bags).gather(1, source.unsqueeze(2).expand(-1, -1, self.class_token.shape[2]))
        tokens = torch.cat([self.class_token.expand(len(bags), -1, -1), tokens], dim=1)
        padding = torch.cat([filled.new_zeros(len(bags), 1), ~filled], dim=1)

        normed = self.norms[0](tokens)
        first = self.layers[0]
        assert isinstance(first, nn.MultiheadAttention)
        tokens = tokens + self_attention(first, normed, padding)
        tokens = torch.cat([tokens[:, :1], self.positions(tokens[:, 1:], sides)], dim=1)
        normed = self.norms[1](tokens)
        update, weights = self.layers[1](normed[:, :1], normed, normed, key_padding_mask=padding)
        logits = self.classifier(self.norms[2](tokens[:, 0] + update[:, 0]))

        of_places = weights[:, 0, 1:]
        attention = torch.zeros_like(mask, dtype=of_places.dtype).scatter_add(1, source, of_places)
        return BagOutput(logits, attention / attention.sum(dim=1, keepdim=True))


class SquareConvolution(nn.Module):
    """TransMIL's position encoding: depth-wise convolutions of three sizes over each bag's square, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in (7, 5, 3)
        )

    def forward(self, tokens: Tensor, sides: Tensor) -> Tensor:
        """Encode positions.

        Args:
            tokens: (B, L, width); the first sides[b]^2 tokens are the square of bag b in row-major order.
            sides: (B,) side length of each bag's square; L is the area of the largest one.

        Returns:
            (B, L, width); values after a bag's square are arbitrary.
        """
        side = int(sides.max())
        place = torch.arange(side * side)
        # Position in the common square of each position p in a bag's own square; everything outside the own square
        # stays zero, like the padding of a convolution.
        own = sides.unsqueeze(1)
        row, column = place // own, place % own
        outside = place >= own**2
        common = (row * side + column).masked_fill(outside, side * side).unsqueeze(2).expand_as(tokens)
        square = tokens.new_zeros(len(tokens), side * side + 1, tokens.shape[2]).scatter(1, common, tokens)
        image = square[:, :-1].transpose(1, 2).reshape(len(tokens), -1, side, side)
        encoded: Tensor = image + sum(convolution(image) for convolution in self.convolutions)
        return encoded.flatten(2).transpose(1, 2).gather(1, common.clamp(max=side * side - 1))


HEAD = BagNetwork(TransMil)
