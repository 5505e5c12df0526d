"""Similarity of slides by their prototypes: exact optimal one-to-one matching, in bounded memory."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from slpd_toolkit.config.objective import Correspondence

BLOCK_VALUES = 2**21  # cosines a block: they stay in cache
MIN_BLOCK_SLIDES = 16
PAIRS = 2**9  # matched at a time, for the same reason
SPARE_SEEDS = 2  # pairs matched beyond the r most promising of a slide, to find a good value early
MAX_ENUMERATED = math.factorial(5)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The r most similar other slides of each of N slides, best first."""

    index: Tensor
    """(N, r) int64 slides."""
    similarity: Tensor
    """(N, r) total cosine of the best matching, at most K."""
    permutation: Tensor
    """(N, r, K) int64: prototype of the neighbour that the best matching pairs with each of the slide's own."""


def match(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Best one-to-one matching of prototype sets: max over permutations sigma of sum_k cosines[k, sigma(k)].

    Linear assignment, exact for any K. Few prototypes are enumerated instead, for all pairs at once.

    Args:
        cosines: (P, K, K) cosines of P pairs of sets.

    Returns:
        (P,) the total cosine, and (P, K) int64 the permutation that reaches it.
    """
    k = cosines.shape[-1]
    if math.factorial(k) <= MAX_ENUMERATED:
        permutations, chosen = _every_permutation(k)
        totals = cosines.flatten(1) @ chosen.to(cosines)
        best = permutations.to(cosines.device)[totals.argmax(-1)]
    else:
        assigned = [linear_sum_assignment(pair, maximize=True)[1] for pair in cosines.cpu().numpy()]
        best = torch.from_numpy(np.array(assigned, dtype=np.int64).reshape(-1, k)).to(cosines.device)
    return cosines.gather(2, best.unsqueeze(-1)).squeeze(-1).sum(-1), best


def nearest_slides(prototypes: Tensor, r: int) -> Neighbours:
    """Find the r slides whose prototypes match a slide's own best, never the slide itself.

    Exact: the value of every pair's best matching is bounded from above, and only pairs whose bound reaches the best
    values found so far are matched. The bounds may be computed in bfloat16: its rounding is allowed for.
    Memory is a block of slides times all slides.

    Args:
        prototypes: (N, K, d) unit vectors, on any device.
        r: Neighbours wanted.

    Raises:
        UsageError: There are not r other slides.
    """
    n, k, _ = prototypes.shape
    if not 1 <= r < n:
        raise UsageError(
            f"{r} neighbours were asked for, but only {n} slides have prototypes.",
            hint="Lower neighbours or min_regions, or add slides.",
        )
    fast = prototypes.transpose(0, 1).to(_fast_dtype(prototypes.device)).contiguous()
    margin = k * _largest_change(prototypes, fast)
    size = max(MIN_BLOCK_SLIDES, BLOCK_VALUES // (n * k * k))
    blocks = [
        _nearest_of_block(prototypes, fast, range(n)[start : start + size], r, margin) for start in range(0, n, size)
    ]
    return Neighbours(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def corresponding(prototypes: Tensor, neighbours: Neighbours, correspondence: Correspondence) -> Tensor:
    """The prototype in each neighbour that stands for each of a slide's own.

    Args:
        prototypes: (N, K, d) unit vectors.
        neighbours: What `nearest_slides` returned for them.
        correspondence: "matched" takes the partner in the best one-to-one matching (the paper), "nearest" the one of
            largest cosine (the published code).

    Returns:
        (N, K, r) int64.
    """
    if correspondence == "matched":
        return neighbours.permutation.transpose(1, 2)
    columns = [
        torch.einsum("nkd,nld->nkl", prototypes, prototypes[index]).argmax(-1) for index in neighbours.index.unbind(1)
    ]
    return torch.stack(columns, dim=-1)


class _Pairs(NamedTuple):
    rows: Tensor  # (P,) slides of a block, counted from its first
    others: Tensor  # (P,) slides


@functools.cache
def _every_permutation(k: int) -> tuple[Tensor, Tensor]:
    """(K!, K) permutations, and the (K * K, K!) matrix that sums what each of them picks."""
    permutations = torch.tensor(list(itertools.permutations(range(k))))
    return permutations, F.one_hot(permutations, k).flatten(1).T.float().contiguous()


def _nearest_of_block(
    prototypes: Tensor, fast: Tensor, block: range, r: int, margin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours of the slides in a block, as `Neighbours` has them.

    Args:
        prototypes: (N, K, d).
        fast: (K, N, d), the same in the type of the bounds.
        block: Consecutive slides.
        r: Neighbours wanted.
        margin: The most by which rounding the prototypes can have lowered a bound.
    """
    bound = _matching_bound(fast, block)
    own = torch.arange(len(block), device=bound.device)
    bound[own, own + block.start] = -torch.inf
    seeds = bound.topk(min(r + SPARE_SEEDS, len(prototypes) - 1)).indices
    seeded = _Pairs(own.repeat_interleave(seeds.shape[1]), seeds.flatten())
    seed_values, seed_permutations = _match_pairs(prototypes, seeded, block.start)
    kept = seed_values.view_as(seeds).topk(r).values[:, -1:]
    limit = kept - margin - (kept.abs() + margin) * torch.finfo(fast.dtype).eps  # the bound itself is rounded as well
    left = _Pairs(*torch.nonzero(bound.scatter_(1, seeds, -torch.inf) >= limit, as_tuple=True))
    left_values, left_permutations = _match_pairs(prototypes, left, block.start)

    rows, others = (torch.cat(parts) for parts in zip(seeded, left, strict=True))
    values = torch.cat((seed_values, left_values))
    order = values.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]  # by row, best first
    first = torch.searchsorted(rows[order], own)
    best = order[first.unsqueeze(1) + torch.arange(r, device=own.device)]
    return others[best], values[best], torch.cat((seed_permutations, left_permutations))[best]


def _matching_bound(fast: Tensor, block: range) -> Tensor:
    """At least the best matching of each slide in a block with every slide, from (K, N, d) prototypes: (b, N).

    A matching takes at most each row's largest cosine, and at most each column's.
    """
    k, n, d = fast.shape
    cosines = (fast[:, block.start : block.stop].reshape(-1, d) @ fast.view(-1, d).T).view(k, -1, k, n)
    by_row, by_column = cosines.amax(2), cosines.amax(0)
    return torch.minimum(by_row.sum(0, dtype=torch.float32), by_column.sum(1, dtype=torch.float32))


def _match_pairs(prototypes: Tensor, pairs: _Pairs, start: int) -> tuple[Tensor, Tensor]:
    """`match` for the pairs of a block that begins at slide `start`, a bounded number at a time."""
    k = prototypes.shape[1]
    values, permutations = [prototypes.new_empty(0)], [pairs.rows.new_empty(0, k)]
    for rows, others in zip(torch.split(pairs.rows, PAIRS), torch.split(pairs.others, PAIRS), strict=True):
        own, theirs = prototypes.index_select(0, rows + start), prototypes.index_select(0, others)
        value, permutation = match(torch.bmm(own, theirs.mT))
        values.append(value)
        permutations.append(permutation)
    return torch.cat(values), torch.cat(permutations)


def _largest_change(prototypes: Tensor, fast: Tensor) -> Tensor:
    """The most by which rounding the factors can change a cosine of unit vectors (Cauchy-Schwarz)."""
    largest: Tensor = torch.linalg.vector_norm(prototypes - fast.transpose(0, 1), dim=-1).max()
    return 2 * largest + torch.finfo(prototypes.dtype).eps


def _fast_dtype(device: torch.device) -> torch.dtype:
    """The type of the bounds: bfloat16 on GPUs and on processors whose libraries have a kernel for it."""
    has_kernel = device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.bfloat16 if has_kernel else torch.float32
