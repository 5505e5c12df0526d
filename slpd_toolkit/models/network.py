"""Student or teacher: a region ViT and a DINO head."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from slpd_toolkit.models.dino_head import DinoHead
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.transformer import INIT_STD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig


class Embedded(NamedTuple):
    """Embeddings of views, before the head."""

    regions: Tensor
    """(sum of n_i, F) in the order of the views; F is `RegionViTConfig.head_dim`."""
    tokens: Tensor | None
    """(n_0, k, F) of the chosen tokens of the first views, each like a region that consists of one token."""


class RegionNetwork(nn.Module):
    """Backbone and head, named `backbone.*` and `head.*` as in DINO's checkpoints.

    Args:
        backbone: Architecture of the region ViT.
        head: Architecture of the head.
        generator: Random generator of the initial weights; None uses PyTorch's global one.
        input_dim: Width D of the cached tokens.
        grid: Side length of the global crops, in tokens.
        masks: Whether tokens can be masked, which requires a learned token that replaces them.
    """

    def __init__(
        self,
        backbone: RegionViTConfig,
        head: DinoHeadConfig,
        generator: torch.Generator | None = None,
        *,
        input_dim: int = 384,
        grid: int = 14,
        masks: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = RegionViT(backbone, generator, input_dim=input_dim, grid=grid)
        self.head = DinoHead(head, generator, input_dim=backbone.head_dim)
        if masks:
            drawn = torch.empty(backbone.embed_dim).normal_(std=INIT_STD, generator=generator)
            self.mask_token = nn.Parameter(drawn)

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
        return self.head.bottleneck(self.embed(views, generator, present).regions)

    def embed(
        self,
        views: Sequence[Tensor],
        generator: torch.Generator | None = None,
        present: Sequence[Tensor | None] | None = None,
        masked: Tensor | None = None,
        *,
        hidden: bool = False,
    ) -> Embedded:
        """Compute the embeddings of views, and of some tokens of those of the first size.

        Args:
            views: As in `forward`.
            generator: As in `forward`.
            present: As in `forward`.
            masked: (n_0, k) int64, positions of tokens in the flattened grids of the first size; None for none.
            hidden: Whether the network sees `mask_token` instead of these tokens.
        """
        present = [None] * len(views) if present is None else present
        found: list[Tensor] = []
        tokens: Tensor | None = None
        for view, seen in zip(views, present, strict=True):
            projected = self.backbone.project(view, seen)
            if masked is None or found:
                found.append(self.backbone.outputs(projected, generator, seen))
                continue
            if hidden:
                where = torch.zeros(view.shape[:-1], dtype=torch.bool, device=view.device)
                where = where.flatten(1).scatter(1, masked, value=True).view(*view.shape[:-1], 1)
                projected = torch.where(where, self.mask_token.to(projected.dtype), projected)
            regions, grid = self.backbone.encode_tokens(projected, generator, seen)
            rows = masked.unsqueeze(-1).expand(-1, -1, grid.shape[-1])
            found, chosen = [self.backbone.pool(regions, grid, seen)], grid.flatten(1, 2).gather(1, rows).flatten(0, 1)
            tokens = self.backbone.pool(chosen, chosen[:, None, None]).view(*masked.shape, -1)
        return Embedded(torch.cat(found), tokens)
