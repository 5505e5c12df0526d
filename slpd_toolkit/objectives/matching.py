"""Slide similarity from prototypes: exact optimal one-to-one matching in bounded memory."""

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
from slpd_toolkit.core.text import count

if TYPE_CHECKING:
    from slpd_toolkit.config.objective import Correspondence

BLOCK_VALUES = 2**21  # cosines per block, so that they stay in the CPU cache
MIN_BLOCK_SLIDES = 16
PAIRS = 2**9  # pairs matched at a time, for the same reason
SPARE_SEEDS = 2  # pairs matched beyond the r most promising per slide, to tighten the threshold early
MAX_ENUMERATED = math.factorial(5)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The r most similar other slides of each of N slides, most similar first."""

    index: Tensor
    """(N, r) int64: indices of slides."""
    similarity: Tensor
    """(N, r): total cosine of the best matching, at most K."""
    permutation: Tensor
    """(N, r, K) int64: the neighbor's prototype that the best matching assigns to each of the slide's own."""


def match(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Find the best one-to-one matching of prototype sets: max over permutations sigma of sum_k cosines[k, sigma(k)].

    Exact for any K: solved as a linear assignment problem or, for small K, by enumeration for all pairs at once.

    Args:
        cosines: (P, K, K) cosines of P pairs of sets.

    Returns:
        The total cosine, (P,), and the permutation that attains it, (P, K) int64.
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
    """Find, for each slide, the r other slides whose prototypes match its own best.

    Exact: the best matching of every pair is bounded from above, and only pairs whose bound reaches the best values
    found so far are matched. Bounds may be computed in bfloat16; they include a margin for its rounding. Memory use is
    a block of slides times all slides.

    Args:
        prototypes: (N, K, d) unit vectors, on any device.
        r: Number of neighbors.

    Raises:
        UsageError: There are fewer than r other slides.
    """
    n, k, _ = prototypes.shape
    if not 1 <= r < n:
        raise UsageError(
            f"{r} neighbors were requested, but only {count(n, 'slide has', 'slides have')} prototypes.",
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
    """Return the prototype in each neighbor that corresponds to each of a slide's own prototypes.

    Args:
        prototypes: (N, K, d) unit vectors.
        neighbours: Result of `nearest_slides` for them.
        correspondence: "matched" uses the partner in the best one-to-one matching (the paper), "nearest" the prototype
            with the largest cosine (the published code).

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
    rows: Tensor  # (P,) slides, relative to the first one of the block
    others: Tensor  # (P,) slides


@functools.cache
def _every_permutation(k: int) -> tuple[Tensor, Tensor]:
    """Return the (K!, K) permutations, and the (K * K, K!) matrix that sums the entries each of them selects."""
    permutations = torch.tensor(list(itertools.permutations(range(k))))
    return permutations, F.one_hot(permutations, k).flatten(1).T.float().contiguous()


def _nearest_of_block(
    prototypes: Tensor, fast: Tensor, block: range, r: int, margin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the neighbors of a block of slides, see `Neighbours`.

    Args:
        prototypes: (N, K, d).
        fast: (K, N, d), the same in the dtype of the bounds.
        block: Consecutive slides.
        r: Number of neighbors.
        margin: Maximum amount by which rounding the prototypes can lower a bound.
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
    """Bound the best matching of each slide in a block with every slide from above: (K, N, d) prototypes -> (b, N).

    A matching cannot exceed the sum of the row maxima, nor the sum of the column maxima.
    """
    k, n, d = fast.shape
    cosines = (fast[:, block.start : block.stop].reshape(-1, d) @ fast.view(-1, d).T).view(k, -1, k, n)
    by_row, by_column = cosines.amax(2), cosines.amax(0)
    return torch.minimum(by_row.sum(0, dtype=torch.float32), by_column.sum(1, dtype=torch.float32))


def _match_pairs(prototypes: Tensor, pairs: _Pairs, start: int) -> tuple[Tensor, Tensor]:
    """Apply `match` to the pairs of a block starting at slide `start`, a bounded number at a time."""
    k = prototypes.shape[1]
    values, permutations = [prototypes.new_empty(0)], [pairs.rows.new_empty(0, k)]
    for rows, others in zip(torch.split(pairs.rows, PAIRS), torch.split(pairs.others, PAIRS), strict=True):
        own, theirs = prototypes.index_select(0, rows + start), prototypes.index_select(0, others)
        value, permutation = match(torch.bmm(own, theirs.mT))
        values.append(value)
        permutations.append(permutation)
    return torch.cat(values), torch.cat(permutations)


def _largest_change(prototypes: Tensor, fast: Tensor) -> Tensor:
    """Bound the change of a cosine of unit vectors due to rounding of its factors (Cauchy-Schwarz)."""
    largest: Tensor = torch.linalg.vector_norm(prototypes - fast.transpose(0, 1), dim=-1).max()
    return 2 * largest + torch.finfo(prototypes.dtype).eps


def _fast_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of the bounds: bfloat16 on GPUs and on CPUs with a native kernel for it."""
    has_kernel = device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.bfloat16 if has_kernel else torch.float32
