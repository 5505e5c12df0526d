"""Statistics of stain and texture, not learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slpd_toolkit.encoders.handcrafted import StainStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the network; there is nothing to choose."""
    assert not model
    assert not arguments
    assert pooling == "statistics"
    return StainStatistics()
