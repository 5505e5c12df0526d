"""Student or teacher: a region ViT and a DINO head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slpd_toolkit.models.dino_head import DinoHead
from slpd_toolkit.models.region_vit import RegionViT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig


class RegionNetwork(nn.Module):
    """Backbone and head, named `backbone.*` and `head.*` as in DINO's checkpoints.

    Args:
        backbone: Architecture of the region ViT.
        head: Architecture of the head.
        generator: Random generator of the initial weights; None uses PyTorch's global one.
        input_dim: Width D of the cached tokens.
        grid: Side length of the global crops, in tokens.
    """

    def __init__(
        self,
        backbone: RegionViTConfig,
        head: DinoHeadConfig,
        generator: torch.Generator | None = None,
        *,
        input_dim: int = 384,
        grid: int = 14,
    ) -> None:
        super().__init__()
        self.backbone = RegionViT(backbone, generator, input_dim=input_dim, grid=grid)
        self.head = DinoHead(head, generator, input_dim=backbone.embed_dim)

    def forward(
        self,
        views: Sequence[Tensor],
        generator: torch.Generator | None = None,
        present: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Compute the bottleneck of views of several sizes.

        Args:
            views: Token grids (n_i, h_i, w_i, D), one tensor per size; each size is one pass through the backbone.
            generator: Random generator of stochastic depth, see `RegionViT.forward`.
            present: (n_i, h_i, w_i) bool for each of `views`, tokens that can be attended to; None for all.

        Returns:
            (sum of n_i, bottleneck_dim) unit vectors, in the order of `views`.
        """
        present = [None] * len(views) if present is None else present
        features = torch.cat([self.backbone(view, generator, seen) for view, seen in zip(views, present, strict=True)])
        return self.head.bottleneck(features)
