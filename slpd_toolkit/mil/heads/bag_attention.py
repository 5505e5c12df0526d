"""Self-attention over large bags, in memory that grows with the number of regions instead of its square."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

EXACT_REGIONS = 8192
"""Bags with more regions use the Nystroem approximation."""
LANDMARKS = 256
"""Number of landmarks of the approximation, as published for TransMIL."""
_PINV_STEPS = 6
_AT_ONCE = 1 << 24  # attention weights in memory: 64 MiB in float32


def is_small(bags: Tensor, heads: int) -> bool:
    """Return whether all attention weights of (B, N, E) bags fit into memory at once."""
    return bags.shape[0] * heads * bags.shape[1] ** 2 <= _AT_ONCE


def self_attention(attention: nn.MultiheadAttention, bags: Tensor, padding: Tensor) -> Tensor:
    """Attend from every region to every region of the same bag.

    Up to 16 million weights, all bags are computed together. Larger ones are computed one after the other, in blocks of
    queries that are computed again in the backward pass: the result is the same. Bags with more than `EXACT_REGIONS`
    regions use the Nystroem approximation instead (Xiong et al., AAAI 2021), with `LANDMARKS` landmarks and without
    dropout on the weights, as TransMIL does for all bags; it depends on the order of the regions.

    Args:
        attention: Weights, number of heads and dropout.
        bags: (B, N, E).
        padding: (B, N) bool, True for padding, which follows the regions of each bag.

    Returns:
        (B, N, E); rows of padding are arbitrary.
    """
    count, length, width = bags.shape
    if is_small(bags, attention.num_heads):
        update: Tensor = attention(bags, bags, bags, key_padding_mask=padding, need_weights=False)[0]
        return update
    packed = F.linear(bags, attention.in_proj_weight, attention.in_proj_bias)
    split = packed.view(count, length, 3, attention.num_heads, width // attention.num_heads)
    query, key, value = split.permute(2, 0, 3, 1, 4)  # (B, heads, N, size) each
    dropout = attention.dropout if attention.training else 0.0
    attended = bags.new_zeros(count, length, width)
    for bag, size in enumerate((~padding).sum(dim=1).tolist()):
        parts = (query[bag, :, :size], key[bag, :, :size], value[bag, :, :size])
        found = nystroem(*parts) if size > EXACT_REGIONS else in_blocks(*parts, dropout=dropout)
        attended[bag, :size] = found.transpose(0, 1).flatten(1)
    merged: Tensor = attention.out_proj(attended)
    return merged


def in_blocks(query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0, at_once: int = _AT_ONCE) -> Tensor:
    """Compute softmax attention of (heads, N, size) tensors in blocks of queries.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        dropout: Dropout on the attention weights.
        at_once: Number of attention weights in memory.
    """
    heads, length, _ = query.shape
    rows = max(1, at_once // (heads * length))
    blocks = [
        checkpoint(_attend, query[:, start : start + rows], key, value, dropout, use_reentrant=False)
        for start in range(0, length, rows)
    ]
    return torch.cat(blocks, dim=1)


def nystroem(query: Tensor, key: Tensor, value: Tensor, *, landmarks: int = LANDMARKS) -> Tensor:
    """Approximate softmax attention of (heads, N, size) tensors, one head at a time, in time and memory linear in N.

    The landmarks are the means of consecutive queries and keys. Source: Xiong et al., AAAI 2021, equation 13.
    """
    segment = torch.arange(query.shape[1]) * landmarks // query.shape[1]
    heads = [
        checkpoint(_approximate, *of_head, segment, landmarks, use_reentrant=False)
        for of_head in zip(query, key, value, strict=True)
    ]
    return torch.stack(heads)


def _attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    weights = F.dropout(_weights(query, key), dropout)
    return weights @ value


def _approximate(query: Tensor, key: Tensor, value: Tensor, segment: Tensor, landmarks: int) -> Tensor:
    counts = torch.bincount(segment, minlength=landmarks).unsqueeze(1)
    some_queries, some_keys = (
        each.new_zeros(landmarks, each.shape[1]).index_add(0, segment, each) / counts for each in (query, key)
    )
    to_values = _weights(some_queries, key) @ value
    return _weights(query, some_keys) @ (_pseudoinverse(_weights(some_queries, some_keys)) @ to_values)


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)


def _pseudoinverse(matrix: Tensor) -> Tensor:
    """Approximate the inverse of a (L, L) matrix of weights iteratively (Xiong et al., equation 11)."""
    found = matrix.T / (matrix.sum(dim=0).max() * matrix.sum(dim=1).max())
    identity = torch.eye(len(matrix))
    for _ in range(_PINV_STEPS):
        product = matrix @ found
        found = found @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
    return found
