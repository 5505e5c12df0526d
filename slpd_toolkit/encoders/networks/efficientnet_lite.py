"""EfficientNet-Lite0, which sees patches of any multiple of 32 px at their own size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slpd_toolkit.models.efficientnet_lite import EfficientNetLite0

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the network, whose token is the mean of its last feature map."""
    assert not model
    assert not arguments
    assert pooling == "mean"
    return EfficientNetLite0()
