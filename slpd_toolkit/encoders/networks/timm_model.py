"""A model of the timm library without its classifier, and how its features become one token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slpd_toolkit.encoders.timm import create_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

POOLINGS = ("cls", "mean", "cls+mean", "model")
"""`cls`: the CLS token; `mean`: of all patch tokens or positions, without CLS and registers; `cls+mean`: both,
concatenated; `model`: the model's own pooling."""


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the model and its pooling."""
    return Pooled(create_model(model, **{"num_classes": 0, **arguments}), pooling)


class Pooled(nn.Module):
    """A model whose features become one token: (N, 3, H, W) -> (N, width)."""

    def __init__(self, network: nn.Module, pooling: str) -> None:
        super().__init__()
        assert pooling in POOLINGS
        self.network = network
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Raises:
            ValueError: The model has no CLS token, and the pooling needs one.
        """
        if self.pooling == "model":
            own: Tensor = self.network(images)
            return own[:, 0] if own.ndim == 3 else own  # a sequence, where `global_pool` is empty
        return pool(self.network, self.network.forward_features(images), self.pooling)  # type: ignore[operator]


def pool(network: nn.Module, features: Tensor, pooling: str) -> Tensor:
    """Reduce the normalized features of a timm model to one token.

    Args:
        network: The model; states how many CLS and register tokens come first, and the order of axes.
        features: (N, tokens, width) of a transformer, (N, width, h, w) or (N, h, w, width) of others.
        pooling: `cls`, `mean` or `cls+mean`.

    Returns:
        (N, width), or (N, 2 * width) for `cls+mean`.

    Raises:
        ValueError: The model has no CLS token, and the pooling needs one.
    """
    prefix = int(getattr(network, "num_prefix_tokens", 0)) if features.ndim == 3 else 0
    if pooling != "mean" and not (prefix and has_cls_token(network)):
        raise ValueError(f"{type(network).__name__} has no CLS token; pooling {pooling!r} needs one")
    if features.ndim == 4:
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        return features.mean(dim=(1, 2) if channels_last else (2, 3))
    if pooling == "cls":
        return features[:, 0]
    mean = features[:, prefix:].mean(dim=1)
    return torch.cat([features[:, 0], mean], dim=1) if pooling == "cls+mean" else mean


def has_cls_token(network: nn.Module) -> bool:
    """Whether the first token of a timm model is a CLS token rather than a register or a patch."""
    return getattr(network, "cls_token", None) is not None
