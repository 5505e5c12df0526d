"""Comparison of the pixels of a block with the thumbnail, to find missing pixels and tiles with wrong contents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

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
_BLUR_TH = 1.0
"""Standard deviation of the blur before structures are compared. Levels are displaced by fractions of a pixel, also
where the file rounds the size of a level up, which changes single pixels of fine structures entirely."""
_STRUCTURE = 2.0
"""Minimum standard deviation of brightness, of 255, for which the structure of a blurred window can be compared."""
_ALIKE = 0.6
"""Correlation of brightness below which two windows differ; the same tissue has at least 0.93."""
SHIFT_TH, LOOSE_SHIFT_TH = 1, 3
"""Maximum displacement between levels, thumbnail px: in formats that store an image in several sizes, and in those
whose fields of view are stitched per level."""
_NEIGHBOURHOOD_TH = 5
_LOCALLY_ALIKE = 0.5
"""Correlation of brightness below which neighborhoods of a pixel differ."""
_LARGEST_DIFFERENT_SHARE = 0.1
"""Share of neighborhoods with structure that may differ. In the same tissue it is at most 0.03; in two tiles that share
only the border of the tissue, which dominates the correlation of whole windows, at least 0.2."""
_FEWEST_PX = 16


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
    inner = rgb[y_px[0] : y_px[1], x_px[0] : x_px[1]]
    block = np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_AREA), np.uint8)
    seen, shown = block.astype(np.float32), overview.rgb.astype(np.float32)
    wrong = np.zeros(rgb.shape[:2], np.bool_)
    for rows, columns in _windows((first_y, last_y), (first_x, last_x), overview.window_l0 / step):
        window = seen[rows.start - first_y : rows.stop - first_y, columns.start - first_x : columns.stop - first_x]
        if window.shape[0] * window.shape[1] >= _FEWEST_PX and not _alike(window, shown, overview, rows, columns):
            top, bottom = (round((at * step - top_l0) * scale) for at in (rows.start, rows.stop))
            left, right = (round((at * step - left_l0) * scale) for at in (columns.start, columns.stop))
            wrong[top:bottom, left:right] = True
    return wrong if wrong.any() else None


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
    compared, window = False, _blurred(window)
    for down, across in sorted(product(shifts, shifts), key=lambda shift: max(map(abs, shift))):
        top, left = rows.start + down - overview.top_th, columns.start + across - overview.left_th
        other = shown[max(top, 0) : top + window.shape[0], max(left, 0) : left + window.shape[1]]
        if other.shape == window.shape:
            compared, other = True, _blurred(other)
            if _similarity(window, other) >= _ALIKE and (
                overview.shift_th > SHIFT_TH or _different_share(window, other) <= _LARGEST_DIFFERENT_SHARE
            ):
                return True
    return not compared


def _blurred(window: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(window, (0, 0), _BLUR_TH, borderType=cv2.BORDER_REFLECT), np.float32)


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


def _different_share(one: Floats, other: Floats) -> float:
    """Return the share of pixels whose neighborhoods differ, of those with structure; 0 if these are few."""
    first, second = one.mean(axis=2), other.mean(axis=2)
    mean_one, mean_other = _box(first), _box(second)
    spreads = [
        np.sqrt(np.maximum(_box(each * each) - mean * mean, 0))
        for each, mean in ((first, mean_one), (second, mean_other))
    ]
    structured = np.maximum(*spreads) >= _STRUCTURE
    if structured.sum() < _FEWEST_PX:
        return 0.0
    covariance = _box(first * second) - mean_one * mean_other
    return float((covariance < _LOCALLY_ALIKE * spreads[0] * spreads[1])[structured].mean())


def _box(picture: Floats) -> Floats:
    """Mean over the neighborhood of each pixel."""
    size = (_NEIGHBOURHOOD_TH, _NEIGHBOURHOOD_TH)
    return np.asarray(cv2.boxFilter(picture, -1, size, borderType=cv2.BORDER_REFLECT), np.float32)
