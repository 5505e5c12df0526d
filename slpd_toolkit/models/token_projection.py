"""First layer of the region ViT: Linear + GELU for each token, after an optional whitening of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenProjection(nn.Sequential):
    """Projection of tokens, named `0` (linear) and `1` (GELU) as in HIPT's checkpoints.

    With whitening, each token x is first mapped to (x - token_mean) @ token_map; see `training.token_whitening`. The
    map is multiplied into the weights of the linear layer instead of being applied to every token.

    Args:
        input_dim: Width D of the tokens.
        embed_dim: Width E of the output.
        whitened: Whether tokens are whitened. The map is the identity until it is set.
    """

    token_mean: Tensor
    token_map: Tensor

    def __init__(self, input_dim: int, embed_dim: int, *, whitened: bool) -> None:
        super().__init__(nn.Linear(input_dim, embed_dim), nn.GELU())
        self.whitened = whitened
        if whitened:
            self.register_buffer("token_mean", torch.zeros(input_dim))
            self.register_buffer("token_map", torch.eye(input_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        linear, activation = self
        assert isinstance(linear, nn.Linear)
        weight = linear.weight
        if self.whitened:
            with torch.autocast(tokens.device.type, enabled=False):
                tokens, weight = tokens - self.token_mean, weight @ self.token_map.mT
        projected: Tensor = activation(F.linear(tokens, weight, linear.bias))
        return projected

    @property
    def has_map(self) -> bool:
        """Whether the map has been set or loaded."""
        return self.whitened and not torch.equal(self.token_map, torch.eye(*self.token_map.shape).to(self.token_map))

    def set_map(self, mean: Tensor, matrix: Tensor) -> None:
        """Set the map, (D,) and (D, D)."""
        self.token_mean.copy_(mean)
        self.token_map.copy_(matrix)
