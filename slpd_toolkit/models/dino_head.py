"""DINO projection head: maps features to an L2-normalized bottleneck, and the bottleneck to prototype logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slpd_toolkit.models.transformer import initialise

if TYPE_CHECKING:
    from slpd_toolkit.config.region_vit import DinoHeadConfig


class DinoHead(nn.Module):
    """Three-layer MLP with an L2-normalized output (bottleneck), followed by a weight-normalized last layer (logits).

    Both parts are also used separately: clustering uses the bottleneck, and slide prototypes enter the last layer.

    Args:
        config: Architecture.
        generator: Random generator of the initial weights; None uses PyTorch's global one.
        input_dim: Width of the region embedding.
    """

    def __init__(
        self, config: DinoHeadConfig, generator: torch.Generator | None = None, *, input_dim: int = 192
    ) -> None:
        super().__init__()
        self.config = config
        self.mlp = nn.Sequential(
            nn.Linear(input_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.bottleneck_dim),
        )
        initialise(self.mlp, generator)
        self.last_layer = WeightNormLinear(config.bottleneck_dim, config.out_dim, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Compute prototype logits: (N, input_dim) -> (N, out_dim)."""
        logits: Tensor = self.last_layer(self.bottleneck(features))
        return logits

    def bottleneck(self, features: Tensor) -> Tensor:
        """Compute the bottleneck: (N, input_dim) -> (N, bottleneck_dim) unit vectors."""
        hidden: Tensor = self.mlp(features)
        return F.normalize(hidden.to(self.last_layer.weight_v.dtype), dim=-1)  # in full precision under autocast


class WeightNormLinear(nn.Module):
    """Linear layer without bias whose rows are `weight_g * weight_v / |weight_v|`.

    The gain is a buffer: it is fixed at 1 in training and keeps its published name so that checkpoints load.
    """

    weight_g: Tensor

    def __init__(self, in_dim: int, out_dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = in_dim**-0.5  # as in nn.Linear; the row norms determine how fast AdamW can rotate the rows
        self.weight_v = nn.Parameter(torch.empty(out_dim, in_dim).uniform_(-bound, bound, generator=generator))
        self.register_buffer("weight_g", torch.ones(out_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_dim) -> (N, out_dim)."""
        return F.linear(x, self.weight_v) * self.scale().squeeze(1)

    def scale(self) -> Tensor:
        """Factor between rows of `weight_v` and rows of the effective weight: gain / norm, (out_dim, 1)."""
        lengths: Tensor = torch.linalg.vector_norm(self.weight_v, dim=1, keepdim=True)
        return self.weight_g / lengths
