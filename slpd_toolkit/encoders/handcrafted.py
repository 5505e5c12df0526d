"""A patch encoder without learning: the amount of each stain, its distribution, and its variation at several scales.

It is cheap, needs no weights, and shows what a learned encoder must improve on: color and texture alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = (1, 2, 4, 8)
"""Sides of the squares that are averaged before variation is measured, px."""
LEVELS = (0.1, 0.25, 0.5, 0.9, 1.5)
"""Optical densities; the share of a patch above each is a feature, for haematoxylin and eosin."""
STAINS = (
    (0.650, 0.704, 0.286),  # haematoxylin
    (0.072, 0.990, 0.105),  # eosin
    (0.268, 0.570, 0.776),  # what neither explains
)
"""Optical density of red, green and blue: Ruifrok and Johnston, Anal Quant Cytol Histol 2001;23:291-9."""
_DARKEST = 1 / 255
_SOFT_OD = 0.08  # width of a level, so that a little more stain changes the features a little
_MEAN_SCALE, _SHARE_SCALE, _SPREAD_SCALE, _EDGE_SCALE = 16.0, 8.0, 24.0, 48.0
# They bring all features to about the same spread, 1 to 2 over the patches of a cohort, as those of learned encoders.


class StainStatistics(nn.Module):
    """Statistics of stain densities: (N, 3, S, S) RGB of 0-1, S a multiple of 8, to (N, `DIM`).

    Features, in order: mean of each of three stains; share above each level, of haematoxylin, then of eosin; and for
    each scale the standard deviation of each stain, then the mean difference between neighbors of each stain.
    """

    DIM = 3 + 2 * len(LEVELS) + 2 * 3 * len(SCALES)

    def __init__(self) -> None:
        super().__init__()
        stains = torch.tensor(STAINS, dtype=torch.float64)
        stains /= stains.norm(dim=1, keepdim=True)
        self.unmixing: Tensor  # (stain, RGB): what multiplies optical densities to give amounts
        self.register_buffer("unmixing", torch.linalg.inv(stains).T.float().contiguous())

    def forward(self, images: Tensor) -> Tensor:
        """Measure each image."""
        density = -images.float().clamp_min(_DARKEST).log()
        amounts = torch.einsum("sc,nchw->nshw", self.unmixing, density)
        flat = amounts.flatten(2)
        above = torch.stack([((flat[:, :2] - level) / _SOFT_OD + 0.5).clamp(0, 1).mean(-1) for level in LEVELS], dim=2)
        features = [_MEAN_SCALE * flat.mean(-1), _SHARE_SCALE * above.flatten(1)]
        for scale in SCALES:
            coarse = F.avg_pool2d(amounts, scale)
            across = (coarse[..., :, 1:] - coarse[..., :, :-1]).abs().mean((-2, -1))
            down = (coarse[..., 1:, :] - coarse[..., :-1, :]).abs().mean((-2, -1))
            spread = coarse.flatten(2).std(-1, correction=0)
            features += [_SPREAD_SCALE * spread, _EDGE_SCALE * (across + down) / 2]
        return torch.cat(features, dim=1)
