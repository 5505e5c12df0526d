"""Comparison of the pixels of a block with the thumbnail, to find missing pixels and tiles with wrong contents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.slides.slide import Thumbnail

    Mask = npt.NDArray[np.bool_]
    Floats = npt.NDArray[np.float32]

NEAR_TISSUE_UM = 40.0
"""Margin around the tissue mask that counts as tissue, because the mask is trimmed and excludes holes."""

_COLOUR = 20.0
"""Difference in mean color, of 255, between two levels of an image that cannot be due to rounding or filters."""
_STRUCTURE = 3.0
"""Minimum standard deviation of brightness, of 255, for which the structure of a blurred window can be compared."""
_ALIKE = 0.6
"""Correlation of brightness below which two windows differ; the same tissue has at least 0.9."""
_RENDITIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_NEAREST)
"""How files make coarse levels of fine ones: averages, values at the centers, or every n-th pixel."""
SHIFT_TH, LOOSE_SHIFT_TH = 1, 3
"""Maximum displacement between levels, thumbnail px: in formats that store an image in several sizes, and in those
whose fields of view are stitched per level."""
_LOCALLY_ALIKE = 0.5
"""Correlation of brightness below which neighborhoods of a pixel differ."""
_FEWEST_PX, _SMALL_PX = 16, 128
"""Size of windows that can be compared, and of those whose shares are so uncertain that twice as much is allowed."""


class _Scale(NamedTuple):
    """Scale at which structures are compared."""

    blur_th: float
    """Standard deviation of the blur. Levels are displaced by fractions of a pixel, also where the file rounds the size
    of a level up, and levels of single pixels are noisy."""
    neighbourhood_th: int
    largest_different_share: float
    """Share of neighborhoods with structure that may differ. Two tiles that share only the border of the tissue, which
    dominates the correlation of whole windows, differ in at least 0.2."""


_FINE, _COARSE = _Scale(1.0, 5, 0.15), _Scale(2.0, 9, 0.3)
_GRAINY = 1.25
"""Ratio of grain above which a level was sharpened, or made of single pixels, and only coarse structures agree."""


@dataclass(frozen=True, eq=False)
class Overview:
    """The part of a thumbnail that a block covers, with a margin."""

    rgb: npt.NDArray[np.uint8]
    """(H, W, 3)"""
    must_exist: Mask
    """(H, W) bool, where the file must have pixels."""
    left_th: int
    top_th: int
    step_l0: int
    window_l0: float
    """Side of the windows that are compared, that of a tile."""
    shift_th: int = SHIFT_TH
    """Maximum displacement of windows, and the margin."""


def required_pixels(mask: Mask, thumbnail: Thumbnail, *, strict: bool) -> Mask:
    """Return where a slide must have pixels, (H, W): on tissue, and wherever the thumbnail has pixels if it is opaque.

    Args:
        mask: Tissue of the thumbnail, (H, W).
        thumbnail: The thumbnail.
        strict: Whether files of this format have all pixels. Scanners of other formats omit areas, which may be white
            on the thumbnail and absent on finer levels, or absent on both.
    """
    radius = max(1, round(NEAR_TISSUE_UM / thumbnail.mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    near = cv2.dilate(mask.view(np.uint8), disc).astype(np.bool_)
    absent = np.zeros_like(mask) if thumbnail.absent is None else thumbnail.absent
    return near | ~absent if strict else near & ~absent


def cut_overview(
    thumbnail: Thumbnail,
    must_exist: Mask,
    square_l0: tuple[int, int, int],
    window_l0: float,
    shift_th: int = SHIFT_TH,
) -> Overview:
    """Crop the part of a thumbnail that a square covers.

    Args:
        thumbnail: Thumbnail of the slide.
        must_exist: Result of `required_pixels`.
        square_l0: Left border, top border and side; the square may cross the border of the slide.
        window_l0: Side of the windows that are compared.
        shift_th: Maximum displacement between levels.
    """
    step, (left_l0, top_l0, side_l0) = thumbnail.step_l0, square_l0
    left, top = max(0, left_l0 // step - shift_th), max(0, top_l0 // step - shift_th)
    right, bottom = (math.ceil((start + side_l0) / step) + shift_th for start in (left_l0, top_l0))
    part = slice(top, bottom), slice(left, right)
    return Overview(thumbnail.rgb[part], must_exist[part], left, top, step, window_l0, shift_th)


def missing_pixels(gaps: Mask, overview: Overview, left_l0: int, top_l0: int, side_l0: int) -> Mask:
    """Return which of the missing pixels of a file should exist.

    Args:
        gaps: (S, S) bool, pixels of a square that are not in the file.
        overview: Overview of the square.
        left_l0: Left border of the square.
        top_l0: Top border.
        side_l0: Side.

    Returns:
        (S, S).
    """
    scale = side_l0 / len(gaps)
    centres = (np.arange(len(gaps)) + 0.5) * scale
    rows, columns = (
        np.floor((start + centres) / overview.step_l0).astype(np.intp) - first
        for start, first in ((top_l0, overview.top_th), (left_l0, overview.left_th))
    )
    height, width = overview.must_exist.shape
    must = overview.must_exist[np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))]
    return gaps & must


def contradictions(
    rgb: npt.NDArray[np.uint8], overview: Overview, left_l0: int, top_l0: int, side_l0: int
) -> Mask | None:
    """Find windows of a square that differ from the thumbnail.

    Args:
        rgb: (S, S, 3) pixels of the square.
        overview: Overview of the square.
        left_l0: Left border of the square.
        top_l0: Top border.
        side_l0: Side.

    Returns:
        (S, S) bool, pixels of such windows; None if there are none.
    """
    step, scale = overview.step_l0, len(rgb) / side_l0
    height_th, width_th = overview.must_exist.shape
    first_x, first_y = (
        max(-(-start // step), first) for start, first in ((left_l0, overview.left_th), (top_l0, overview.top_th))
    )
    last_x = min((left_l0 + side_l0) // step, overview.left_th + width_th)
    last_y = min((top_l0 + side_l0) // step, overview.top_th + height_th)
    if last_x - first_x < 2 or last_y - first_y < 2:
        return None
    x_px, y_px = (
        [round((at * step - start) * scale) for at in ends]
        for start, ends in ((left_l0, (first_x, last_x)), (top_l0, (first_y, last_y)))
    )
    size = (last_x - first_x, last_y - first_y)
    inner, shown = rgb[y_px[0] : y_px[1], x_px[0] : x_px[1]], overview.rgb.astype(np.float32)
    suspects = [
        window
        for window in _windows((first_y, last_y), (first_x, last_x), overview.window_l0 / step)
        if (window[0].stop - window[0].start) * (window[1].stop - window[1].start) >= _FEWEST_PX
    ]
    for rendition in _RENDITIONS:
        if not suspects:
            return None
        seen = np.asarray(cv2.resize(inner, size, interpolation=rendition), np.float32)
        suspects = [
            (rows, columns)
            for rows, columns in suspects
            if not _alike(
                seen[rows.start - first_y : rows.stop - first_y, columns.start - first_x : columns.stop - first_x],
                shown,
                overview,
                rows,
                columns,
            )
        ]
    wrong = np.zeros(rgb.shape[:2], np.bool_)
    for rows, columns in suspects:
        top, bottom = (round((at * step - top_l0) * scale) for at in (rows.start, rows.stop))
        left, right = (round((at * step - left_l0) * scale) for at in (columns.start, columns.stop))
        wrong[top:bottom, left:right] = True
    return wrong if suspects else None


def _windows(rows: tuple[int, int], columns: tuple[int, int], side_th: float) -> list[tuple[slice, slice]]:
    """Divide a rectangle of thumbnail pixels at the borders of tiles."""

    def parts(first: int, last: int) -> list[slice]:
        borders = [math.ceil(k * side_th) for k in range(math.floor(first / side_th) + 1, math.ceil(last / side_th))]
        ends = [first, *(border for border in dict.fromkeys(borders) if first < border < last), last]
        return [slice(start, stop) for start, stop in pairwise(ends)]

    return [(row, column) for row in parts(*rows) for column in parts(*columns)]


def _alike(window: Floats, shown: Floats, overview: Overview, rows: slice, columns: slice) -> bool:
    """Whether a window matches the thumbnail, within the maximum displacement."""
    shifts = range(-overview.shift_th, overview.shift_th + 1)
    others = []
    for down, across in sorted(product(shifts, shifts), key=lambda shift: max(map(abs, shift))):
        top, left = rows.start + down - overview.top_th, columns.start + across - overview.left_th
        other = shown[max(top, 0) : top + window.shape[0], max(left, 0) : left + window.shape[1]]
        if other.shape == window.shape:
            others.append(other)
    loose = overview.shift_th > SHIFT_TH
    if not others or _agrees(window, others, _FINE, loose=loose):
        return True
    return _grain(others[0]) > _GRAINY * _grain(window) and _agrees(window, others, _COARSE, loose=loose)


def _agrees(window: Floats, others: list[Floats], scale: _Scale, *, loose: bool) -> bool:
    """Whether a window has the structures of any of the others at a scale."""
    window = _blurred(window, scale.blur_th)
    tolerance = 2 if window.shape[0] * window.shape[1] < _SMALL_PX else 1
    for other in (_blurred(each, scale.blur_th) for each in others):
        if _similarity(window, other) >= _ALIKE and (
            loose
            or _different_share(window, other, scale.neighbourhood_th) <= tolerance * scale.largest_different_share
        ):
            return True
    return False


def _grain(window: Floats) -> float:
    """Mean absolute difference of brightness from that of the blurred window."""
    brightness = window.mean(axis=2)
    return float(np.abs(brightness - _blurred(brightness, _FINE.blur_th)).mean())


def _blurred(window: Floats, blur_th: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(window, (0, 0), blur_th, borderType=cv2.BORDER_REFLECT), np.float32)


def _similarity(one: Floats, other: Floats) -> float:
    """Return the correlation of brightness; 1 without structure to compare, 0 if colors differ."""
    if np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max() > _COLOUR:
        return 0.0
    first, second = one.mean(axis=2).ravel(), other.mean(axis=2).ravel()
    first, second = first - first.mean(), second - second.mean()
    spreads = float(first.std()), float(second.std())
    if max(spreads) < _STRUCTURE:
        return 1.0
    return float((first * second).mean() / max(spreads[0] * spreads[1], 1e-6))


def _different_share(one: Floats, other: Floats, side_th: int) -> float:
    """Return the share of pixels whose neighborhoods differ, of those with structure; 0 if these are few."""
    first, second = one.mean(axis=2), other.mean(axis=2)
    mean_one, mean_other = _box(first, side_th), _box(second, side_th)
    spreads = [
        np.sqrt(np.maximum(_box(each * each, side_th) - mean * mean, 0))
        for each, mean in ((first, mean_one), (second, mean_other))
    ]
    structured = np.maximum(*spreads) >= _STRUCTURE
    if structured.sum() < _FEWEST_PX:
        return 0.0
    covariance = _box(first * second, side_th) - mean_one * mean_other
    return float((covariance < _LOCALLY_ALIKE * spreads[0] * spreads[1])[structured].mean())


def _box(picture: Floats, side: int) -> Floats:
    """Mean over the neighborhood of each pixel."""
    return np.asarray(cv2.boxFilter(picture, -1, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)
