"""Making the views of a region differ more than their crops do, so that what they share by chance is no shortcut.

Noise and offsets change the tokens of all views. Hidden tokens are hidden from the student alone: as in masked
self-distillation (iBOT, https://arxiv.org/abs/2111.07832), the teacher's targets come from what there is to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slpd_toolkit.objectives.crops import Masks, Views

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to views after they are cut; the default, nothing, is SLPD's."""

    noise: Tensor | None = None
    """(D,) standard deviation of the noise that each token gets by itself; None for none."""
    offset: Tensor | None = None
    """(D,) standard deviation of the offset that all tokens of a view share; None for none."""
    region_means: Tensor | None = None
    """(M, D) mean tokens of regions, scaled: the difference of two of them is added to all tokens of a view. None for
    nothing. Unlike `offset`, it moves views the way that regions of the cohort differ."""
    dropout: float = 0.0
    """Probability that a token of a student's view is hidden from attention."""
    block: float = 0.0
    """Share of a student's global view that is hidden as one rectangle."""


def augment(views: Views, augmentation: Augmentation, generator: torch.Generator) -> Views:
    """Augment the views of a batch; gives `views` itself where nothing is to be done.

    Args:
        views: Crops of B regions.
        augmentation: What to do.
        generator: Source of all draws, on the views' device.
    """
    for scale, shared in ((augmentation.offset, True), (augmentation.noise, False)):
        if scale is not None:
            views = _each(views, partial(add_noise, scale=scale, generator=generator, shared=shared))
    if augmentation.region_means is not None:
        views = _each(views, partial(add_region_offset, means=augmentation.region_means, generator=generator))
    if augmentation.dropout or augmentation.block:
        shown = draw_shown(views, augmentation, generator)
        present = views.student_sees
        if present is not None:
            shown = Masks(*(mask & there for mask, there in zip(shown, present, strict=True)))
        views = views._replace(student_sees=shown)
    return views


def add_noise(view: Tensor, scale: Tensor, generator: torch.Generator, *, shared: bool) -> Tensor:
    """Add Gaussian noise to (V, B, h, w, D) tokens: float32, for float16 would round small noise away.

    Args:
        view: Tokens of any floating type.
        scale: (D,) standard deviation.
        generator: On the tokens' device.
        shared: One vector for all tokens of a view, instead of one a token.
    """
    size = (*view.shape[:2], 1, 1, view.shape[-1]) if shared else view.shape
    drawn = torch.empty(size, device=view.device).normal_(generator=generator).mul_(scale)
    return view + drawn if shared else drawn.add_(view)


def add_region_offset(view: Tensor, means: Tensor, generator: torch.Generator) -> Tensor:
    """Add the difference of two random rows of `means`, (M, D), to all tokens of each of (V, B, h, w, D) views.

    The differences have the covariance of the regions' means, twice: mostly stain, scanner and tissue, a few directions
    of many. Noise of the same size in all directions drowns the tokens before it hides those.
    """
    one, other = torch.randint(len(means), (2, *view.shape[:2], 1, 1), device=view.device, generator=generator)
    return view + (means[one] - means[other])


def _each(views: Views, change: Callable[[Tensor], Tensor]) -> Views:
    return views._replace(global_crops=change(views.global_crops), local_crops=change(views.local_crops))


def draw_shown(views: Views, augmentation: Augmentation, generator: torch.Generator) -> Masks:
    """Draw the tokens that are shown to the student: true for those that neither dropout nor the block hides."""
    shown = [
        torch.rand(view.shape[:-1], device=view.device, generator=generator) >= augmentation.dropout
        for view in (views.global_crops, views.local_crops)
    ]
    if augmentation.block:
        shown[0] &= ~draw_blocks(shown[0].shape, augmentation.block, views.global_crops.device, generator)
    return Masks(*shown)


def draw_blocks(shape: tuple[int, ...], share: float, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw a rectangle in each view, at any place alike.

    Its sides are at most as one to two, unless that does not fit. Its area is `share` of the view's, as nearly as whole
    rows and columns can make it.

    Args:
        shape: (V, B, side, side) of the views.
        share: Part of the area, in (0, 1).
        device: That of `generator`.
        generator: Source of shape and place.

    Returns:
        (V, B, side, side) bool, true inside.
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
