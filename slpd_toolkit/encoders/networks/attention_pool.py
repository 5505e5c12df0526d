"""A ViT whose tokens one learned query attends to: CONCH and CONCH 1.5, before projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slpd_toolkit.encoders.timm import create_model, features_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_HEADS = 8


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build trunk and pooler; `pooler_width` is the width of the token."""
    assert pooling == "attention"
    of_trunk = dict(arguments)
    width = of_trunk.pop("pooler_width")
    return AttentionPooled(create_model(model, num_classes=0, **of_trunk), width)


class AttentionPooled(nn.Module):
    """Trunk, pooler and layer norm, under the names of CONCH's files: (N, 3, H, W) -> (N, width)."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = _Pooler(width, features_of(trunk))
        self.ln_contrast = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        tokens: Tensor = self.trunk.forward_features(images)  # type: ignore[operator]
        pooled: Tensor = self.ln_contrast(self.attn_pool_contrast(tokens))
        return pooled


class _Pooler(nn.Module):
    """Multi-head attention of one learned query to all tokens: (N, tokens, context) -> (N, width)."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, width))
        self.attn = nn.MultiheadAttention(width, _HEADS, kdim=context, vdim=context, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.ln_k(tokens)
        queries = self.ln_q(self.query).expand(len(tokens), -1, -1)
        attended: Tensor = self.attn(queries, keys, keys, need_weights=False)[0]
        return attended[:, 0]
