"""Similarity of slides by their prototypes: exact optimal one-to-one matching, in bounded memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from slpd_toolkit.errors import UsageError

Correspondence = Literal["matched", "nearest"]
BLOCK_VALUES = 2**22
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
        permutations = torch.tensor(list(itertools.permutations(range(k))), device=cosines.device)
        totals = cosines[:, torch.arange(k, device=cosines.device), permutations].sum(-1)
        best = permutations[totals.argmax(-1)]
    else:
        assigned = [linear_sum_assignment(pair, maximize=True)[1] for pair in cosines.cpu().numpy()]
        best = torch.from_numpy(np.array(assigned, dtype=np.int64).reshape(-1, k)).to(cosines.device)
    return cosines.gather(2, best.unsqueeze(-1)).squeeze(-1).sum(-1), best


def nearest_slides(prototypes: Tensor, r: int) -> Neighbours:
    """Find the r slides whose prototypes match a slide's own best, never the slide itself.

    Exact: an upper bound of the matching's value is computed for every pair of slides, and pairs are matched in
    falling order of their bound until no other can be better. The bound is the value of Hungarian reduction, rows then
    columns, so it is attained wherever the rows' best partners differ. Memory is a block of slides times all slides.

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
    rows = max(1, BLOCK_VALUES // (n * k * k))
    blocks = [_nearest_of_block(prototypes, range(start, min(start + rows, n)), r) for start in range(0, n, rows)]
    index, similarity, permutation = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return Neighbours(index, similarity, permutation)


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


def _nearest_of_block(prototypes: Tensor, block: range, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours of the slides in a block: index (b, r), similarity (b, r), permutation (b, r, K)."""
    n, b = len(prototypes), len(block)
    slides = torch.arange(block.start, block.stop, device=prototypes.device)
    bound = _matching_bound(prototypes, block)
    bound[torch.arange(b), slides] = -torch.inf
    found = torch.full((b, n), -torch.inf, device=prototypes.device)  # exact values, where they are known
    open_rows = torch.arange(b, device=prototypes.device)
    tried = 0
    while len(open_rows):
        width = min(2 * tried or r + 2, n - 1)
        candidates = bound[open_rows].topk(width).indices[:, tried:]
        similarity, _ = match(_cosines(prototypes, slides[open_rows], candidates))
        found[open_rows.unsqueeze(1), candidates] = similarity.view(candidates.shape)
        tried = width
        if tried == n - 1:
            break
        worst_kept = found[open_rows].topk(r).values[:, -1]
        best_left = bound[open_rows].topk(tried + 1).values[:, -1]
        open_rows = open_rows[best_left > worst_kept]
    similarity, index = found.topk(r)
    _, permutation = match(_cosines(prototypes, slides, index))
    return index, similarity, permutation.view(b, r, -1)


def _matching_bound(prototypes: Tensor, block: range) -> Tensor:
    """Upper bound of the best matching of a block's slides with every slide: (b, N).

    For any u, v with cosine[k, l] <= u[k] + v[l] the sum of u and v bounds every matching (linear-programming duality).
    """
    n, k, d = prototypes.shape
    by_prototype = prototypes.transpose(0, 1)  # k first, so that the maxima below run over whole rows of slides
    own = by_prototype[:, block.start : block.stop].reshape(-1, d)
    slack = (own @ by_prototype.reshape(-1, d).T).view(k, len(block), k, n)
    u = slack.amax(2)
    v = slack.sub_(u.unsqueeze(2)).amax(0)
    return u.sum(0) + v.sum(1)


def _cosines(prototypes: Tensor, slides: Tensor, others: Tensor) -> Tensor:
    """(b,) slides and (b, c) others of each -> (b * c, K, K) cosines."""
    return torch.einsum("bkd,bcld->bckl", prototypes[slides], prototypes[others]).flatten(0, 1)
