"""EfficientNet-Lite0, a small convolutional network without squeeze-and-excite (after Tan and Le, ICML 2019)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

STRIDE_PX = 32
"""Stride of the last feature map, px."""
WIDTH = 1280
_BATCH_NORM_EPS = 1e-3


class _Stage(NamedTuple):
    expansion: int
    kernel: int
    stride: int
    width: int
    blocks: int


_STEM_WIDTH = 32
_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: (N, 3, H, W) normalized RGB -> (N, 1280) mean of the last feature map.

    Uses the padding of TensorFlow (`SAME`: the odd pixel is on the right and at the bottom), which the published
    weights require.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, _STEM_WIDTH, kernel=3, stride=2)
        blocks, width = [], _STEM_WIDTH
        for stage in _STAGES:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(_Block(width, stage.width, stage.expansion, stage.kernel, stride))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = _ConvNorm(width, WIDTH, kernel=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed patches."""
        features = _relu6(self.head(self.blocks(_relu6(self.stem(pixels)))))
        return features.mean(dim=(2, 3))


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; the input is added if the shapes match."""

    def __init__(self, width: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = _ConvNorm(width, inner, kernel=1) if expansion > 1 else None
        self.depthwise = _ConvNorm(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = _ConvNorm(inner, out, kernel=1)
        self.residual = stride == 1 and width == out

    def forward(self, features: Tensor) -> Tensor:
        inner = features if self.expand is None else _relu6(self.expand(features))
        projected: Tensor = self.project(_relu6(self.depthwise(inner)))
        return features + projected if self.residual else projected


class _ConvNorm(nn.Module):
    """Convolution with TensorFlow's padding, then batch normalization."""

    def __init__(self, width: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        even = kernel // 2 if stride == 1 else 0  # padding is equal on all sides, so that no copy is needed for it
        self.conv = nn.Conv2d(width, out, kernel, stride, padding=even, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=_BATCH_NORM_EPS)
        self._kernel, self._stride = kernel, stride

    def forward(self, features: Tensor) -> Tensor:
        if self._stride > 1:
            rows, columns = (self._padding(side) for side in features.shape[-2:])
            features = F.pad(features, (*columns, *rows))
        normed: Tensor = self.norm(self.conv(features))
        return normed

    def _padding(self, side: int) -> tuple[int, int]:
        """Pad so that the output has ceil(side / stride) positions; an odd pixel is added at the end."""
        total = max((-(-side // self._stride) - 1) * self._stride + self._kernel - side, 0)
        return total // 2, total - total // 2


def _relu6(normed: Tensor) -> Tensor:
    return F.relu6(normed, inplace=True)  # what a normalization returns is used nowhere else


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the published weights (`_blocks.0._expand_conv.weight`, ...) and drop the classifier."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("_fc."):
            continue
        new = name
        for old, part in _NAMES.items():
            new = new.replace(old, part)
        renamed[new] = tensor
    return renamed


_NAMES = {
    "_conv_stem.": "stem.conv.",
    "_conv_head.": "head.conv.",
    "_blocks.": "blocks.",
    "._expand_conv.": ".expand.conv.",
    "._depthwise_conv.": ".depthwise.conv.",
    "._project_conv.": ".project.conv.",
    "._bn0.": ".expand.norm.",
    "._bn1.": ".depthwise.norm.",
    "._bn2.": ".project.norm.",
    "_bn0.": "stem.norm.",
    "_bn1.": "head.norm.",
}
