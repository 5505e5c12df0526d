"""Scores drawn as colors, over the slide's pixels if these are available."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib import colormaps

from slpd_toolkit.mil.tasks.predictions import relative_ranks

if TYPE_CHECKING:
    from typing import Literal

    import numpy.typing as npt

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.report.scores import SlideScores

    RGB = npt.NDArray[np.uint8]

COLOUR_MAP = "viridis"
"""Perceptually uniform, and readable for color-blind people and in print."""

_OPACITY = 0.42
_PAPER, _OUTSIDE = 255, 235
_EDGE_RGB = (255, 255, 255)
_LEAST_EDGE_SHARE = 1 / 40


@dataclass(frozen=True, eq=False)
class Overlay:
    """An image, and the level-0 rectangle that it shows."""

    rgb: RGB
    box_l0: tuple[int, int, int, int]
    """Left, top, right, bottom, level-0 px."""


def colour_values(scores: FloatArray, scale: Literal["rank", "linear"]) -> FloatArray:
    """Map (n,) scores to 0-1: by rank within the slide, or linearly from the lowest to the highest score.

    If all scores are equal, the result is 0.5.
    """
    if scale == "rank":
        return relative_ranks(scores)
    low, high = float(scores.min()), float(scores.max())
    return (scores - low) / (high - low) if high > low else np.full(len(scores), 0.5)


def colours(values: FloatArray) -> RGB:
    """Map (n,) values in 0-1 to (n, 3) colors."""
    rgb: RGB = np.asarray(colormaps[COLOUR_MAP](values, bytes=True)[..., :3], np.uint8)
    return rgb


def draw_overlay(slide: SlideScores, values: FloatArray, thumbnail: RGB | None, side_px: int) -> Overlay:
    """Draw a slide's squares half-transparent over its thumbnail, or opaque on white without one.

    Args:
        slide: Squares; the slide's size must be known if there is a thumbnail.
        values: (n,) 0-1, from `colour_values`. Where squares overlap, the mean is shown.
        thumbnail: The whole slide, any size.
        side_px: Longest side of the image.
    """
    left, top, right, bottom = box_l0 = _box_l0(slide, whole=thumbnail is not None)
    scale = side_px / max(right - left, bottom - top)
    shape = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    canvas = _canvas(slide, thumbnail, shape, scale, (left, top))
    first = np.round((slide.coords_l0 - (left, top)) * scale).astype(np.int64)
    last = np.round((slide.coords_l0 + slide.sizes_l0[:, None] - (left, top)) * scale).astype(np.int64)
    last = np.maximum(last, first + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    for (x, y), (end_x, end_y), value in zip(first.tolist(), last.tolist(), values.tolist(), strict=True):
        sums[y:end_y, x:end_x] += value
        counts[y:end_y, x:end_x] += 1
    covered = counts > 0
    painted = colours(sums[covered] / counts[covered])
    opacity = 1.0 if thumbnail is None else _OPACITY
    canvas[covered] = np.round(canvas[covered] * (1 - opacity) + painted * opacity).astype(np.uint8)
    if (last - first).min() >= side_px * _LEAST_EDGE_SHARE:
        for (x, y), (end_x, end_y) in zip(first.tolist(), last.tolist(), strict=True):
            cv2.rectangle(canvas, (x, y), (end_x - 1, end_y - 1), _EDGE_RGB, 1)
    return Overlay(canvas, box_l0)


def _box_l0(slide: SlideScores, *, whole: bool) -> tuple[int, int, int, int]:
    """Return the rectangle to show: the slide and padded regions, or without pixels the squares and a margin."""
    first = slide.coords_l0.min(axis=0)
    last = (slide.coords_l0 + slide.sizes_l0[:, None]).max(axis=0)
    if whole:
        first, last = np.minimum(first, 0), np.maximum(last, slide.slide_size_l0)
    else:
        margin = int(slide.sizes_l0.max()) // 2
        first, last = first - margin, last + margin
    return (int(first[0]), int(first[1]), int(last[0]), int(last[1]))


def _canvas(
    slide: SlideScores, thumbnail: RGB | None, shape: tuple[int, int], scale: float, corner_l0: tuple[int, int]
) -> RGB:
    if thumbnail is None:
        return np.full((*shape, 3), _PAPER, np.uint8)
    canvas = np.full((*shape, 3), _OUTSIDE, np.uint8)
    width, height = (max(1, round(side * scale)) for side in slide.slide_size_l0)
    smaller = width <= thumbnail.shape[1]
    picture = cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    x, y = (round(-side * scale) for side in corner_l0)
    inside = canvas[y : y + height, x : x + width]
    inside[...] = picture[: inside.shape[0], : inside.shape[1]]
    return canvas
