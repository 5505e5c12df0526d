"""A ViT that sees a patch twice, whole and enlarged in four quarters: MUSK's `ms_aug`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from slpd_toolkit.encoders.timm import create_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_QUARTERS = 4


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the network."""
    assert pooling == "cls"
    return TwoScales(create_model(model, num_classes=0, **arguments))


class TwoScales(nn.Module):
    """CLS of the image and mean CLS of its quarters at twice the size, concatenated: (N, 3, S, S) -> (N, 2 * width).

    The enlargement is PyTorch's bicubic interpolation of the normalized image, as in MUSK.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        count, side = images.shape[0], images.shape[-1]
        large = F.interpolate(images, size=(2 * side, 2 * side), mode="bicubic")
        quarters = [part for rows in large.chunk(2, dim=2) for part in rows.chunk(2, dim=3)]
        whole, parts = self._cls(images), self._cls(torch.cat(quarters))
        return torch.cat([whole, parts.view(_QUARTERS, count, -1).mean(dim=0)], dim=1)

    def _cls(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return features[:, 0]
