"""Whitening of tokens against differences between slides, estimated from the slides of a run.

**Between slides.** Speaker recognition removes differences between recordings of the same speaker by within-class
covariance normalization (Hatch et al., Interspeech 2006): vectors are multiplied by the inverse square root of the
covariance between sessions. Here the sessions are slides. With the covariance B of their mean tokens, D features and
the identity I::

    map = c (B + 0.3 tr(B) / D I)^(-1/2)

Stain, scanner and thickness change a whole slide, so that they dominate B, and the map scales them down. They also vary
within slides, in the same directions, which no subtraction of a slide's mean removes. Differences in tissue add little
to B, because they are much larger within slides than between their means. c makes the mean variance of a feature 1.

**Within kinds.** If slides differ in composition, B contains these differences too, and the map would scale down the
directions that separate kinds of tissue. Therefore tokens are clustered into kinds, and the mean
of a slide is replaced by its shift: the mean difference of its tokens from the mean token of their kind. A token x of
slide s and kind k is modeled as x = c_k + d_s + noise, fitted by alternating least squares; clusters are formed again
in the space of the map found so far, in which stain is weaker. B is the covariance of the shifts d_s. Drift within
slides also becomes weaker, in the directions in which slides are shifted.

**Wiener.** Real tokens vary much more in some directions than in others, and whitening also amplifies the many in which
they hardly vary, which contain little but noise. With the same B and the covariance C of tokens::

    map = c C^(1/2) (C + 30 B)^(-1) C^(1/2)

Where slides do not differ, this is the identity. A direction in which a fraction f of the variance is due to shifts of
slides is multiplied by 1 / (1 + 30 f), as in a Wiener filter. (A small multiple of the identity is added to C, so that
directions with much less than 0.1 % of the mean variance stay.)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from slpd_toolkit.core.vectors import kmeans, one_faiss_thread
from slpd_toolkit.store.streaming import in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.store.cohort_tokens import CohortTokens
    from slpd_toolkit.store.token_file import TokenStore

SMOOTHING = 0.3
"""Part of the mean eigenvalue added to the covariance. Between 0.1 and 1, results on planted cohorts hardly differ."""
KINDS = 32
"""Clusters of tokens: more than there are kinds of tissue, so that each contains a single kind."""
STRENGTH = 30.0
"""Weight of B in the filter. Mean tokens of real tiles are equally good from 10 to 100; planted cohorts need 30."""
_RIDGE = 0.001
"""Part of the mean eigenvalue added to C, which is singular for fewer tokens than features."""
_ROUNDS, _ALTERNATIONS = 4, 4
_TOKENS = 65_536
"""Maximum number of tokens in the sample that is clustered: 400 MB with 1,536 features."""
_LEAST_TOKENS = 64
"""Minimum number of tokens per slide: the shift of a slide is an average over them."""
_REGIONS_OF_SLIDE = 32
_REGIONS_OF_SCALE = 512


class TokenMap(NamedTuple):
    """The map of a token x: (x - mean) @ matrix."""

    mean: Tensor
    """(D,) float32."""
    matrix: Tensor
    """(D, D) float32, symmetric."""


def whiten_between_slides(
    tokens: CohortTokens, store: TokenStore, generator: torch.Generator, *, centered: bool = False
) -> TokenMap:
    """Estimate the map from up to 32 regions of every slide, on tissue patches.

    Args:
        tokens: All regions, not centered.
        store: Their cache.
        generator: CPU random generator of the sample.
        centered: Whether the network receives tokens relative to their slide's mean token: nothing else is subtracted.

    Raises:
        CacheError: A token file can no longer be read.
    """
    starts = np.concatenate(([0], np.cumsum(store.lengths)))
    slides = np.flatnonzero(store.lengths)
    width = store.embedding_dim
    means, within, count = np.zeros((len(slides), width)), np.zeros((width, width)), 0
    for row, slide in enumerate(slides.tolist()):
        regions = _drawn_regions(store, slide, generator)
        for_scale = regions[: max(1, _REGIONS_OF_SCALE // len(slides))]
        total, number, kept = np.zeros(width), 0, []
        for part in in_parts(regions):
            values = _tissue_tokens(tokens, store, slide, part, int(starts[slide]))
            kept += [own for own, region in zip(values, part, strict=True) if region in for_scale]
            total += sum(own.sum(axis=0) for own in values)
            number += sum(map(len, values))
        means[row] = total / max(1, number)
        deviations = np.concatenate(kept) - means[row]
        within += deviations.T @ deviations
        count += len(deviations)
    between = _covariance(means)
    matrix = _root(between, within / max(1, count) + (0 if centered else between))
    return _token_map(np.zeros(width) if centered else means.mean(axis=0), matrix)


def whiten_within_kinds(
    tokens: CohortTokens,
    store: TokenStore,
    generator: torch.Generator,
    *,
    centered: bool = False,
    wiener: bool = False,
) -> TokenMap:
    """Estimate the map from differences between slides among tokens of the same kind.

    Args:
        tokens: All regions, not centered.
        store: Their cache.
        generator: CPU random generator of the sample.
        centered: Whether the network receives tokens relative to their slide's mean token: nothing else is subtracted.
        wiener: Whether to return the Wiener filter against these differences instead.

    Raises:
        CacheError: A token file can no longer be read.
    """
    starts = np.concatenate(([0], np.cumsum(store.lengths)))
    slides = np.flatnonzero(store.lengths)
    slides = np.sort(slides[torch.randperm(len(slides), generator=generator).numpy()[: _TOKENS // _LEAST_TOKENS]])
    per_slide = _TOKENS // len(slides)
    sample = []
    for slide in slides.tolist():
        regions = _drawn_regions(store, slide, generator)
        own: list[npt.NDArray[np.float32]] = []
        for part in in_parts(regions):
            for region in _tissue_tokens(tokens, store, slide, part, int(starts[slide])):
                chosen = torch.randperm(len(region), generator=generator)[: -(-per_slide // len(regions))]
                own.append(region[chosen.numpy()].astype(np.float32))
        sample.append(np.concatenate(own))
    return map_of_kinds(sample, centered=centered, wiener=wiener)


def map_of_kinds(
    sample: Sequence[npt.NDArray[np.float32]], *, centered: bool = False, wiener: bool = False
) -> TokenMap:
    """Compute the map from some tokens of each of S slides, S times (n, D), with n > 0; see `whiten_within_kinds`."""
    slide = np.repeat(np.arange(len(sample)), [len(own) for own in sample])
    means = np.array([own.mean(axis=0, dtype=np.float64) for own in sample])
    mean = means.mean(axis=0)
    shifts = means - mean
    values = np.concatenate(sample) - mean.astype(np.float32)
    deviations = values - shifts[slide].astype(np.float32) if centered else values
    covariance = (deviations.T @ deviations).astype(np.float64) / len(values)
    matrix = np.eye(len(mean))
    for _ in range(_ROUNDS):
        shifts = _shifts_of_kinds(values, slide, shifts, matrix.astype(np.float32))
        matrix = _root(_covariance(shifts), covariance)
    if wiener:
        matrix = wiener_filter(_covariance(shifts), covariance)
    return _token_map(np.zeros_like(mean) if centered else mean, matrix)


def _shifts_of_kinds(
    values: npt.NDArray[np.float32],
    slide: npt.NDArray[np.int64],
    shifts: npt.NDArray[np.float64],
    matrix: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """Cluster the (n, D) tokens less the (S, D) shifts of their slides, and estimate the shifts again."""
    kinds = min(KINDS, len(values))
    with one_faiss_thread():
        kind = kmeans((values - shifts[slide].astype(np.float32)) @ matrix, kinds, restarts=1)[1]
    for turn in range(_ALTERNATIONS):
        unshifted = values - shifts[slide].astype(np.float32)
        centers = _means(unshifted, kind, kinds)
        if turn:
            mapped = centers @ matrix
            kind = ((mapped**2).sum(axis=1) - 2 * unshifted @ (matrix @ mapped.T)).argmin(axis=1)
            centers = _means(unshifted, kind, kinds)
        shifts = _means(values - centers[kind], slide, len(shifts)).astype(np.float64)
        shifts -= shifts.mean(axis=0)
    return shifts


def _means(values: npt.NDArray[np.float32], group: npt.NDArray[np.int64], groups: int) -> npt.NDArray[np.float32]:
    """Return the mean of each group of rows, (groups, D); 0 for an empty one."""
    members = csr_array((np.ones(len(group), np.float32), (group, np.arange(len(group)))), (groups, len(group)))
    counts = np.bincount(group, minlength=groups)[:, None]
    means: npt.NDArray[np.float32] = (members @ values) / np.maximum(1, counts).astype(np.float32)
    return means


def _covariance(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the covariance of (n, D) rows, (D, D); 0 for a single one."""
    deviations = rows - rows.mean(axis=0)
    found: npt.NDArray[np.float64] = deviations.T @ deviations / max(1, len(rows) - 1)
    return found


def _root(between: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the (D, D) map against the covariance `between`, for tokens with the covariance `tokens`."""
    width = len(between)
    if not np.trace(between) > 0:  # a single slide, or slides that do not differ
        between = np.eye(width)
    values, vectors = np.linalg.eigh(between + SMOOTHING * np.trace(between) / width * np.eye(width))
    return _of_unit_variance((vectors / np.sqrt(values)) @ vectors.T, tokens)


def wiener_filter(between: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the (D, D) Wiener filter against the covariance `between`, for tokens with the covariance `tokens`."""
    width = len(between)
    ridged = tokens + max(_RIDGE * np.trace(tokens) / width, 1e-12) * np.eye(width)
    values, vectors = np.linalg.eigh(ridged)
    root = (vectors * np.sqrt(values)) @ vectors.T
    found = root @ np.linalg.solve(ridged + STRENGTH * between, root)
    return _of_unit_variance((found + found.T) / 2, tokens)


def _of_unit_variance(matrix: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scale a map such that the mean variance of a feature of mapped tokens is 1."""
    scale = np.sqrt(np.trace(matrix @ tokens @ matrix) / len(matrix))
    found: npt.NDArray[np.float64] = matrix / max(float(scale), 1e-12)
    return found


def _token_map(mean: npt.NDArray[np.float64], matrix: npt.NDArray[np.float64]) -> TokenMap:
    return TokenMap(*(torch.from_numpy(found.astype(np.float32)) for found in (mean, matrix)))


def _drawn_regions(store: TokenStore, slide: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    """Return the sorted numbers of up to 32 random regions of the slide."""
    drawn = torch.randperm(int(store.lengths[slide]), generator=generator)[:_REGIONS_OF_SLIDE]
    return np.sort(drawn.numpy())


def _tissue_tokens(
    tokens: CohortTokens, store: TokenStore, slide: int, part: npt.NDArray[np.int64], start: int
) -> list[npt.NDArray[np.float64]]:
    """Return the (n, D) tokens of tissue patches of each region; of all present patches where there is no tissue."""
    read = tokens.read(part + start).numpy().astype(np.float64)
    tissue, present = store.files[slide].tissue[part] > 0, tokens.present(part + start)
    there = np.ones_like(tissue) if present is None else present.numpy()
    used = np.where(tissue.any(axis=(1, 2), keepdims=True), tissue & there, there)
    return [own[mask] for own, mask in zip(read, used, strict=True)]


WHITENINGS: dict[str, Callable[..., TokenMap]] = {
    "between-slides": whiten_between_slides,
    "within-kinds": whiten_within_kinds,
    "wiener": partial(whiten_within_kinds, wiener=True),
}
"""Estimates of the map by value of the setting."""
