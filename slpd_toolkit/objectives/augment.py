"""View augmentation: noise and offsets on tokens, and masking of tokens for the student.

Noise and offsets apply to all views. Tokens are masked for the student only: as in masked self-distillation (iBOT,
https://arxiv.org/abs/2111.07832), the teacher computes its targets from the whole view.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from slpd_toolkit.objectives.crops import Masks, Views

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.config.views import AugmentationConfig


class TokenStatistics(NamedTuple):
    """Statistics of a cohort's tokens, which scale noise and offsets."""

    spread: Tensor
    """(D,) float32: standard deviation of each feature over all tokens."""
    region_means: Tensor
    """(M, D) float32: mean token of each region in a sample of regions."""

    def to(self, device: torch.device) -> TokenStatistics:
        """Return the same statistics on another device."""
        return TokenStatistics(*(values.to(device) for values in self))


def augment(
    views: Views, config: AugmentationConfig, statistics: TokenStatistics | None, generator: torch.Generator
) -> Views:
    """Augment the views of a batch; returns `views` itself if every augmentation is off.

    Args:
        views: Crops of B regions.
        config: Strength of each augmentation.
        statistics: Statistics of the cohort, on the views' device; may be None if `config.needs_statistics` is false.
        generator: Random generator, on the views' device.

    Raises:
        ValueError: The statistics are needed but missing.
    """
    if config.needs_statistics:
        if statistics is None:
            raise ValueError("noise and offsets require the statistics of the cohort's tokens")
        for strength, shared in ((config.token_offset, True), (config.token_noise, False)):
            if strength:
                scale = statistics.spread * strength
                views = _each(views, partial(add_noise, scale=scale, generator=generator, shared=shared))
        if config.region_offset:
            means = statistics.region_means * config.region_offset
            views = _each(views, partial(add_region_offset, means=means, generator=generator))
    if config.token_dropout or config.block_mask:
        shown = draw_shown(views, config, generator)
        present = views.student_sees
        if present is not None:
            shown = Masks(*(mask & there for mask, there in zip(shown, present, strict=True)))
        views = views._replace(student_sees=shown)
    return views


def add_noise(view: Tensor, scale: Tensor, generator: torch.Generator, *, shared: bool) -> Tensor:
    """Add Gaussian noise to (V, B, h, w, D) tokens. Returns float32, because float16 would round small noise away.

    Args:
        view: Tokens of any floating-point type.
        scale: (D,) standard deviation.
        generator: Random generator, on the tokens' device.
        shared: Use one noise vector for all tokens of a view instead of one per token.
    """
    size = (*view.shape[:2], 1, 1, view.shape[-1]) if shared else view.shape
    drawn = torch.empty(size, device=view.device).normal_(generator=generator).mul_(scale)
    return view + drawn if shared else drawn.add_(view)


def add_region_offset(view: Tensor, means: Tensor, generator: torch.Generator) -> Tensor:
    """Add the difference of two random rows of `means`, (M, D), to all tokens of each of the (V, B, h, w, D) views.

    The differences have twice the covariance of the region means: a few dominant directions, mostly due to stain,
    scanner and tissue. Isotropic noise would swamp the tokens before it masked these directions.
    """
    one, other = torch.randint(len(means), (2, *view.shape[:2], 1, 1), device=view.device, generator=generator)
    return view + (means[one] - means[other])


def _each(views: Views, change: Callable[[Tensor], Tensor]) -> Views:
    return views._replace(global_crops=change(views.global_crops), local_crops=change(views.local_crops))


def draw_shown(views: Views, config: AugmentationConfig, generator: torch.Generator) -> Masks:
    """Draw which tokens the student sees: True for tokens masked neither by dropout nor by the block."""
    shown = [
        torch.rand(view.shape[:-1], device=view.device, generator=generator) >= config.token_dropout
        for view in (views.global_crops, views.local_crops)
    ]
    if config.block_mask:
        shown[0] &= ~draw_blocks(shown[0].shape, config.block_mask, views.global_crops.device, generator)
    return Masks(*shown)


def draw_masked(views: Views, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw the tokens of each global crop that the student predicts, (Vg, B, k) int64; see `Views.masked`.

    All crops have the same number k, at least 1, so that nothing depends on what was drawn.

    Args:
        views: Crops of B regions.
        fraction: Fraction of the tokens of a crop.
        generator: Random generator, on the views' device.
    """
    *shape, side, _, _ = views.global_crops.shape
    drawn = torch.rand((*shape, side * side), device=views.global_crops.device, generator=generator)
    return drawn.topk(max(1, round(fraction * side * side)), dim=-1).indices


def draw_blocks(shape: tuple[int, ...], share: float, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw a rectangle in each view, at a uniformly random position.

    Its aspect ratio is at most 2, unless that does not fit. Its area is as close to `share` of the view as whole rows
    and columns allow.

    Args:
        shape: (V, B, side, side) of the views.
        share: Fraction of the area, in (0, 1).
        device: Device of `generator`.
        generator: Random generator of shape and position.

    Returns:
        (V, B, side, side) bool, True inside the rectangle.
    """
    *views, side, _ = shape
    area = share * side**2
    aspect, down, across = torch.rand(3, *views, device=device, generator=generator)
    height = (area**0.5 * 2 ** (aspect - 0.5)).round().clamp(math.ceil(area / side), side)
    width = (area / height).round().clamp(1, side)
    steps = torch.arange(side, device=device)

    def inside(place: Tensor, length: Tensor) -> Tensor:
        first = (place * (side - length + 1)).floor().unsqueeze(-1)
        return (steps >= first) & (steps < first + length.unsqueeze(-1))

    return inside(down, height).unsqueeze(-1) & inside(across, width).unsqueeze(-2)
