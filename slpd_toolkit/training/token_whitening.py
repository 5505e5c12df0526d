"""Whitening of tokens against differences between slides, estimated from the slides of a run.

Speaker recognition removes what differs between recordings of the same speaker by within-class covariance normalization
(Hatch et al., Interspeech 2006): vectors are multiplied by the inverse square root of the covariance between sessions.
Here the sessions are slides. With the covariance B of their mean tokens, D features and the identity I::

    map = c (B + 0.3 tr(B) / D I)^(-1/2)

Stain, scanner and thickness change a whole slide, so that they dominate B, and the map scales them down. They also vary
within slides, in the same directions, which no subtraction of a slide's mean removes. Differences in tissue add little
to B, because they are much larger within slides than between their means. c makes the mean variance of a feature 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from slpd_toolkit.store.streaming import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.store.cohort_tokens import CohortTokens
    from slpd_toolkit.store.token_file import TokenStore

SMOOTHING = 0.3
"""Part of the mean eigenvalue added to the covariance. Between 0.1 and 1, results on planted cohorts hardly differ."""
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
        drawn = torch.randperm(int(store.lengths[slide]), generator=generator)[:_REGIONS_OF_SLIDE]
        regions = np.sort(drawn.numpy())
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
    return _map_of(means, within / max(1, count), centered=centered)


def _map_of(means: npt.NDArray[np.float64], within: npt.NDArray[np.float64], *, centered: bool) -> TokenMap:
    """Compute the map from the (S, D) means of slides and the (D, D) covariance within slides."""
    mean, width = means.mean(axis=0), means.shape[1]
    between = (means - mean).T @ (means - mean) / max(1, len(means) - 1)
    if not np.trace(between) > 0:  # a single slide, or slides that do not differ
        between = np.eye(width)
    values, vectors = np.linalg.eigh(between + SMOOTHING * np.trace(between) / width * np.eye(width))
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    variance = within if centered else within + between
    matrix /= max(float(np.sqrt(np.trace(matrix @ variance @ matrix) / width)), 1e-12)
    used = np.zeros(width) if centered else mean
    return TokenMap(*(torch.from_numpy(found.astype(np.float32)) for found in (used, matrix)))


def _tissue_tokens(
    tokens: CohortTokens, store: TokenStore, slide: int, part: npt.NDArray[np.int64], start: int
) -> list[npt.NDArray[np.float64]]:
    """Return the (n, D) tokens of tissue patches of each region; of all present patches where there is no tissue."""
    read = tokens.read(part + start).numpy().astype(np.float64)
    tissue, present = store.files[slide].tissue[part] > 0, tokens.present(part + start)
    there = np.ones_like(tissue) if present is None else present.numpy()
    used = np.where(tissue.any(axis=(1, 2), keepdims=True), tissue & there, there)
    return [own[mask] for own, mask in zip(read, used, strict=True)]
