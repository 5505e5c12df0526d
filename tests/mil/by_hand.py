"""Plain implementations of layers, as oracles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def self_attention(layer: Any, x: Tensor) -> Tensor:
    """Exact multi-head self-attention of one sequence (L, D), head by head: softmax(q k^T / sqrt(d)) v."""
    q, k, v = (x @ layer.in_proj_weight.T + layer.in_proj_bias).chunk(3, dim=-1)
    width = q.shape[-1] // layer.num_heads
    heads = [
        torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), dim=-1) @ v[:, part]
        for part in (slice(start, start + width) for start in range(0, q.shape[-1], width))
    ]
    projected: Tensor = layer.out_proj(torch.cat(heads, dim=-1))
    return projected
