"""A ViT with an MLP behind its CLS token, scaled to unit length: KEEP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import nn

from slpd_toolkit.encoders.timm import create_model, features_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build trunk and projection; `projection_width` is the width of the token."""
    assert pooling == "cls"
    of_trunk = dict(arguments)
    width = of_trunk.pop("projection_width")
    return Projected(create_model(model, num_classes=0, **of_trunk), width)


class Projected(nn.Module):
    """Trunk and projection, under the names of KEEP's file: (N, 3, H, W) -> (N, width) of unit length."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.visual = trunk
        inner = features_of(trunk)
        self.visual_head = nn.Sequential(nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        cls = self.visual.forward_features(images)[:, 0]  # type: ignore[operator]
        return F.normalize(self.visual_head(cls), dim=-1)
