"""Resizing exactly as Pillow does, which is what model cards do with torchvision: equal in every byte, on any device.

Pillow resamples along x, then along y, with weights rounded to 22 bits and each pass rounded to whole bytes. Here each
pass is a matrix product; in float64 every sum of bytes times 22-bit weights is exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.encoders.preset import Interpolation

_PRECISION_BITS = 22
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_BICUBIC_A = -0.5
_IMAGES_AT_ONCE = 32  # float64 is eight times as large as bytes


def resize(images: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """Resize byte images with antialiasing, as `PIL.Image.resize` does.

    Args:
        images: (N, C, H, W), whole values from 0 to 255, of any dtype.
        side: Height and width of the result.
        interpolation: `bilinear` or `bicubic`; both average over all pixels that a smaller pixel covers.

    Returns:
        (N, C, side, side) float32 of whole values from 0 to 255.
    """
    return torch.cat([_resize(part, side, interpolation) for part in torch.split(images, _IMAGES_AT_ONCE)])


def _resize(images: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    exact = torch.float32 if images.device.type == "mps" else torch.float64  # MPS has no float64: rarely off by one
    height, width = images.shape[-2:]
    resized = images.to(exact)
    if width != side:
        resized = _rounded(resized @ weights(width, side, interpolation).to(images.device, exact).T)
    if height != side:
        resized = _rounded(weights(height, side, interpolation).to(images.device, exact) @ resized)
    return resized.float()


@lru_cache(maxsize=8)
def weights(source_px: int, side: int, interpolation: Interpolation) -> Tensor:
    """Return the weights of one pass, (side, source_px) float64: whole multiples of 2 ** -22; rows sum to about 1."""
    scale = source_px / side
    filter_scale = max(scale, 1.0)
    support = _SUPPORT[interpolation] * filter_scale
    centres = (np.arange(side) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)[:, None]
    end = np.minimum((centres + support + 0.5).astype(np.int64), source_px)[:, None]
    at = np.arange(source_px)
    values = _kernel((at - centres[:, None] + 0.5) / filter_scale, interpolation)
    values = np.where((at >= first) & (at < end), values, 0.0)
    values /= values.sum(axis=1, keepdims=True)
    steps = float(2**_PRECISION_BITS)
    return torch.from_numpy(np.trunc(values * steps + np.copysign(0.5, values)) / steps)


def _kernel(x: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    a = _BICUBIC_A
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)
