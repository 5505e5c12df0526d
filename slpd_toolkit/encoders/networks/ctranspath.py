"""CTransPath: a Swin-T whose patches are embedded by three convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from slpd_toolkit.encoders.networks.timm_model import Pooled
from slpd_toolkit.encoders.timm import create_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_SIDE_PX, _STRIDE_PX = 224, 4


def build(model: str, arguments: Mapping[str, Any], pooling: str) -> nn.Module:
    """Build the network."""
    assert not model
    swin = create_model("swin_tiny_patch4_window7_224", embed_layer=ConvStem, num_classes=0, **arguments)
    return Pooled(swin, pooling)


class ConvStem(nn.Module):
    """Two 3 x 3 convolutions of stride 2 and one of 1 x 1: (N, 3, 224, 224) -> (N, 56, 56, embed_dim)."""

    def __init__(self, in_chans: int = 3, embed_dim: int = 96, norm_layer: type[nn.Module] = nn.LayerNorm, **_: object):
        super().__init__()
        self.img_size = (_SIDE_PX, _SIDE_PX)
        self.patch_size = (_STRIDE_PX, _STRIDE_PX)
        self.grid_size = (_SIDE_PX // _STRIDE_PX, _SIDE_PX // _STRIDE_PX)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        stem: list[nn.Module] = []
        width = in_chans
        for out in (embed_dim // 8, embed_dim // 4):
            stem += [nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.proj = nn.Sequential(*stem, nn.Conv2d(width, embed_dim, 1))
        self.norm = norm_layer(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed patches of 4 px."""
        embedded: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return embedded
