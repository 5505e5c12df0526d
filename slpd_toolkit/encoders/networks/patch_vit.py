"""DINO's ViT with 16 px patches, which sees patches of any multiple of 16 px at their own size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slpd_toolkit.models.patch_vit import PatchViT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the network, whose token is its CLS embedding."""
    assert not model
    assert pooling == "cls"
    return PatchViT(**arguments)
