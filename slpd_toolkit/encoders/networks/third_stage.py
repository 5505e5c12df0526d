"""A ResNet up to its third stage, averaged: the ResNet-50 features of CLAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from slpd_toolkit.encoders.timm import create_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the network; its fourth stage is loaded, so that the file is checked in full, and not used."""
    assert pooling == "mean"
    return ThirdStage(create_model(model, num_classes=0, **arguments))


class ThirdStage(nn.Module):
    """Mean of a ResNet's third stage: (N, 3, H, W) -> (N, 1024)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        features = images
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            features = getattr(self.network, name)(features)
        return features.mean(dim=(2, 3))
