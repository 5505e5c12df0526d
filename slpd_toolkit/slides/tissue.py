"""Tissue detection on thumbnails, and the tissue fraction of each patch of each region.

Tissue is distinguished from glass by the local texture of the optical density (OD) instead of the color: glass, capture
spots, stain halos and uneven light vary slowly, whereas tissue varies from cell to cell. The threshold is absolute, so
that a slide may be all tissue or all glass. Lengths are in micrometers, so that the mask hardly depends on the
resolution of the thumbnail.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Image: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]

SMOOTH_UM = 8.0  # Gaussian sigma before texture is measured: removes scanner noise and JPEG blocks, keeps nuclei
WINDOW_UM = 12.0  # Gaussian sigma of the window of the texture; wider windows extend further over the edge of tissue
TEXTURE_OD = 0.016  # standard deviation of OD in the window; between those of dirty glass (0.006) and pale fat (0.04)
DENSE_OD = 0.35  # OD above glass that counts as tissue without texture (blood, mucin, out-of-focus sections)
GAP_UM = 80.0  # joins textured areas within twice this distance: bridges fat cells, fills holes below about 0.2 mm
BLEED_UM = 24.0  # distance that the window extends texture over the edge of tissue, trimmed off afterwards
THIN_UM = 40.0  # structures thinner than twice this are not tissue: scratches, coverslip edges, fibers
SPECK_MM2 = 0.02  # smaller pieces are dropped as debris; a core of 0.5 mm has 0.2
WHITE = 253  # padding composited to white, allowing for JPEG
NEARLY_WHITE, JPEG_UM = 240, 64.0  # white padding after compression, within a block of its edge
SEAM_UM = 150.0  # padding is masked this far from glass; the texture window is smaller
INK_MPP = 16.0  # resolution of ink detection: coarse enough to blend nuclei with their surroundings
INK_UM = 50.0  # minimum width of ink and black borders, and width of their blurred edge
COLD_OD, COLD_RATIO = 0.25, 1.15  # blue and green ink: OD of red above that of green, by difference and by ratio
BLACK_OD, BLACK_SPREAD_OD = 1.5, 0.4  # black: minimum OD of the lightest channel, and maximum difference to the darkest
DARKEST = 25  # below this value, color is compression noise
STRIP_ROWS = 1024  # number of rows processed as float at a time, to limit memory

_OD_OF_UINT8: Floats = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def tissue_mask(thumbnail: Image, mpp: float) -> Mask:
    """Find the tissue on a thumbnail of a brightfield slide.

    Blue, green and black ink, black borders and white padding are never tissue, including their edges. Tissue under ink
    is lost. Red ink looks like eosin and navy ink like hematoxylin, so they are not recognized.

    Args:
        thumbnail: RGB, (H, W, 3) uint8, area-averaged to about 8 um/px.
        mpp: Micrometers per pixel of the thumbnail.

    Returns:
        (H, W) bool, True on tissue.
    """
    known = ~_ink(thumbnail, mpp)
    white = _white(thumbnail, mpp)
    known &= ~_seam(thumbnail, white, known, mpp)
    textured, level = _texture(thumbnail, known, mpp)
    glass = level[known & ~textured & ~white]
    # The brightest tenth instead of the mode, which would be tissue if there is more flat tissue than glass.
    glass_od = np.quantile(glass, 0.1, overwrite_input=True) if glass.size else 0.0
    return _pieces(known & (textured | (level > glass_od + DENSE_OD)), known, mpp)


def tissue_fraction(
    mask: Mask, origins: npt.ArrayLike, cell_size: tuple[float, float], grid_shape: tuple[int, int]
) -> Floats:
    """Compute the tissue fraction of every cell of equal grids, such as the patches of regions.

    Cells may start and end inside a thumbnail pixel. Coverage is exact, because the integral of a piecewise constant
    image is bilinear between the corners of its pixels. The area beyond the thumbnail counts as glass.

    Args:
        mask: (H, W) bool.
        origins: (R, 2) x and y of the top-left corner of each grid in thumbnail pixels; (0, 0) is a corner of the
            image.
        cell_size: Width and height of one cell in thumbnail pixels, both above 0.
        grid_shape: Rows and columns of each grid.

    Returns:
        (R, rows, columns), each from 0 to 1.
    """
    (cell_w, cell_h), (rows, columns) = cell_size, grid_shape
    corners = np.asarray(origins, dtype=np.float64).reshape(-1, 2)
    integral = cv2.integral(mask.astype(np.uint8))  # (H + 1, W + 1)
    x = corners[:, :1] + cell_w * np.arange(columns + 1)
    y = corners[:, 1:] + cell_h * np.arange(rows + 1)
    covered = _bilinear(integral, y[:, :, None], x[:, None, :])
    tissue = np.diff(np.diff(covered, axis=1), axis=2)
    return np.clip(tissue / (cell_w * cell_h), 0.0, 1.0).astype(np.float32)


def _white(thumbnail: Image, mpp: float) -> Mask:
    """Find white padding, including its edges that are not exactly white due to compression."""
    white = cv2.inRange(thumbnail, (WHITE,) * 3, (255,) * 3) > 0
    if not white.any():
        return white
    pad = math.ceil(THIN_UM / mpp) + 1
    # The area beyond the thumbnail counts as white, so that narrow margins are found as well.
    white = _opened(_bordered(white, pad, cv2.BORDER_CONSTANT, value=True), THIN_UM, mpp)[pad:-pad, pad:-pad]
    nearly = cv2.inRange(thumbnail, (NEARLY_WHITE,) * 3, (255,) * 3) > 0
    return white | (nearly & _dilate(white, JPEG_UM, mpp))


def _seam(thumbnail: Image, white: Mask, known: Mask, mpp: float) -> Mask:
    """Find white next to flat glass that is less white: it is padding, and the edge between them is artificial.

    White next to tissue is kept: it is overexposed glass, and pale tissue is detected by the contrast to it.
    """
    if not white.any():
        return white
    textured, _ = _texture(thumbnail, known & ~white, mpp)
    glass = _opened(known & ~white & ~textured, THIN_UM, mpp)
    return _dilate(white & _dilate(glass, SEAM_UM, mpp), 1.5, 1.0)  # including the ring of mixed pixels


def _ink(thumbnail: Image, mpp: float) -> Mask:
    """Find ink by colors that stained tissue does not have: red absorbed much more than green, or black.

    Hematoxylin absorbs green at least as much as red, and even the darkest nuclei transmit some blue.
    """
    height, width = thumbnail.shape[:2]
    scale = min(mpp / INK_MPP, 1.0)
    small = cv2.resize(thumbnail, (math.ceil(width * scale), math.ceil(height * scale)), interpolation=cv2.INTER_AREA)
    small = np.maximum(small, DARKEST)
    red, green, blue = cv2.split(cv2.LUT(small, _OD_OF_UINT8))
    blue_or_green = (red > green + COLD_OD) & (red > COLD_RATIO * green)
    lightest, darkest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    black = (lightest > BLACK_OD) & (darkest - lightest < BLACK_SPREAD_OD)
    ink = _dilate(_erode(blue_or_green | black, INK_UM / 2, mpp / scale), INK_UM / 2 + INK_UM, mpp / scale)
    return cv2.resize(ink.view(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR).astype(np.bool_)


def _texture(thumbnail: Image, known: Mask, mpp: float) -> tuple[Mask, Floats]:
    """Find where OD varies, and compute its local mean.

    Both are normalized convolutions over the known pixels (Knutsson and Westin, CVPR 1993), so that the edges of
    padding and ink do not count as texture.

    Returns:
        (H, W) bool, True if the standard deviation of OD exceeds `TEXTURE_OD`, and (H, W) float32, the mean OD.
    """
    textured = np.empty(known.shape, np.bool_)
    level = np.empty(known.shape, np.float32)
    for strip in _strips(thumbnail, SMOOTH_UM + WINDOW_UM, mpp):
        weight = known[strip.read].astype(np.float32)
        density = cv2.transform(cv2.LUT(thumbnail[strip.read], _OD_OF_UINT8), np.full((1, 3), 1 / 3))
        density = _blur(density * weight, SMOOTH_UM, mpp) * weight / np.maximum(_blur(weight, SMOOTH_UM, mpp), 1e-3)
        total = np.maximum(_blur(weight, WINDOW_UM, mpp), 1e-3)
        mean = _blur(density, WINDOW_UM, mpp) / total
        variance = _blur(density * density, WINDOW_UM, mpp) / total - mean * mean
        textured[strip.write] = (variance > TEXTURE_OD**2)[strip.keep]
        level[strip.write] = mean[strip.keep]
    return textured, level


def _pieces(found: Mask, known: Mask, mpp: float) -> Mask:
    """Join textured areas to pieces of tissue, trim them to the edge, and drop thin or small pieces."""
    pad = math.ceil((GAP_UM + BLEED_UM + THIN_UM) / mpp)
    # Tissue that touches the frame continues beyond it; other objects near it, such as a scale bar, must not be joined.
    joined = _dilate(_bordered(found, pad, cv2.BORDER_REPLICATE), GAP_UM, mpp)
    # Do not trim at unknown pixels, because texture does not extend into them.
    joined |= _bordered(~known, pad, cv2.BORDER_REPLICATE)
    pieces = _dilate(_erode(joined, GAP_UM + BLEED_UM + THIN_UM, mpp), THIN_UM, mpp)[pad:-pad, pad:-pad] & known
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces.view(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] * (mpp / 1000) ** 2 >= SPECK_MM2
    large[0] = False  # label 0 is the background
    kept: Mask = large[labels]
    return kept


class _Strip(NamedTuple):
    """Rows to read (with a margin for filters), the part of them to keep, and its position."""

    read: slice
    keep: slice
    write: slice


def _strips(image: Image, sigma_um: float, mpp: float) -> Iterator[_Strip]:
    height, margin = len(image), math.ceil(4 * sigma_um / mpp) + 2
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        first = max(top - margin, 0)
        yield _Strip(slice(first, bottom + margin), slice(top - first, bottom - first), slice(top, bottom))


def _blur(image: npt.NDArray[Any], sigma_um: float, mpp: float) -> npt.NDArray[Any]:
    return cv2.GaussianBlur(image, (0, 0), sigma_um / mpp)


def _dilate(mask: Mask, radius_um: float, mpp: float) -> Mask:
    return cv2.dilate(mask.view(np.uint8), _disc(radius_um / mpp)).astype(np.uint8, copy=False).view(np.bool_)


def _erode(mask: Mask, radius_um: float, mpp: float) -> Mask:
    return cv2.erode(mask.view(np.uint8), _disc(radius_um / mpp)).astype(np.uint8, copy=False).view(np.bool_)


def _opened(mask: Mask, radius_um: float, mpp: float) -> Mask:
    return _dilate(_erode(mask, radius_um, mpp), radius_um, mpp)


def _bordered(mask: Mask, width: int, kind: int, *, value: bool = False) -> Mask:
    bordered = cv2.copyMakeBorder(mask.view(np.uint8), width, width, width, width, kind, value=int(value))
    return bordered.astype(np.uint8, copy=False).view(np.bool_)


def _disc(radius: float) -> Image:
    offset = np.arange(-math.floor(radius), math.floor(radius) + 1)
    return (offset**2 + offset[:, None] ** 2 <= radius**2).astype(np.uint8)


def _bilinear(table: npt.NDArray[Any], y: Doubles, x: Doubles) -> Doubles:
    """Interpolate a table bilinearly, with its border extended outwards."""
    y, x = np.clip(y, 0, table.shape[0] - 1), np.clip(x, 0, table.shape[1] - 1)
    top, left = np.minimum(y.astype(np.intp), table.shape[0] - 2), np.minimum(x.astype(np.intp), table.shape[1] - 2)
    dy, dx = y - top, x - left
    upper = table[top, left] * (1 - dx) + table[top, left + 1] * dx
    lower = table[top + 1, left] * (1 - dx) + table[top + 1, left + 1] * dx
    between: Doubles = upper * (1 - dy) + lower * dy
    return between
