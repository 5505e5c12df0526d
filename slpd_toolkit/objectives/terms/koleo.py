"""KoLeo (https://arxiv.org/abs/1806.03198, in DINOv2 https://arxiv.org/abs/2304.07193): spreads the region embeddings.

    loss = -mean_i log(min_{j != i} |x_i - x_j| + 1e-8)

over the student's unit embeddings x of a batch, for each global view separately. It estimates the entropy of their
distribution by the distance of each to its nearest neighbor, and counteracts collapse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.objectives.term import TermInputs

ORDER = 5
WEIGHT = 0.0
"""Weight of the KoLeo loss, which spreads the region embeddings of a batch (per process), as in DINOv2. 0 disables it.
"""
NEEDS_PROTOTYPES = False
WHOLE_BATCH = True
_EPS = 1e-8


def loss(inputs: TermInputs) -> Tensor:
    """Return the loss, a scalar: the mean over global views and regions. 0 for a single region."""
    with torch.autocast(inputs.regions.device.type, enabled=False):
        unit = F.normalize(inputs.regions.to(torch.promote_types(inputs.regions.dtype, torch.float32)), dim=-1)
        if unit.shape[1] < 2:
            return unit.sum() * 0
        with torch.no_grad():
            likeness = unit @ unit.mT
            likeness.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
            nearest = likeness.argmax(dim=-1, keepdim=True).expand_as(unit)
        distance = torch.linalg.vector_norm(unit - unit.gather(1, nearest) + _EPS, dim=-1)
        return -torch.log(distance + _EPS).mean()
