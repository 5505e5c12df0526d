"""Tissue on a slide's thumbnail, and how much of it lies in each patch of each region.

Tissue is told from glass by the local texture of its optical density (OD), not by its colour: glass, capture spots,
stain halos and uneven light vary slowly, tissue varies from cell to cell. The threshold is absolute, so that a slide
may be all tissue or all glass. Lengths are micrometres, so that the mask depends little on the thumbnail's resolution.
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

SMOOTH_UM = 8.0  # Gaussian sigma before texture is measured: scanner noise and JPEG blocks go, nuclei stay
WINDOW_UM = 12.0  # Gaussian sigma of the window in which OD varies; wider windows bleed further over the tissue's edge
TEXTURE_OD = 0.016  # standard deviation of OD in the window; 0.006 (dirty glass) to 0.04 (pale fat) give one answer
DENSE_OD = 0.35  # OD above glass that is tissue without any texture (blood, mucin, an unfocused section)
GAP_UM = 80.0  # textured places within twice this are one piece: bridges fat cells, fills holes below about 0.2 mm
BLEED_UM = 24.0  # how far the window carries texture over the tissue's edge, trimmed off again
THIN_UM = 40.0  # structures thinner than twice this are not tissue: scratches, coverslip edges, fibres
SPECK_MM2 = 0.02  # smaller pieces are dropped as debris; a core of 0.5 mm has 0.2
WHITE = 253  # padding composited to white, allowing for JPEG
NEARLY_WHITE, JPEG_UM = 240, 64.0  # what compression makes of padding within a block of its edge
SEAM_UM = 150.0  # padding is set aside this far from glass; texture reaches less far
INK_MPP = 16.0  # ink is looked for at this resolution: coarse enough to blend nuclei with what surrounds them
INK_UM = 50.0  # ink and black borders: at least this wide, and blurred this far beyond their edge
COLD_OD, COLD_RATIO = 0.25, 1.15  # blue and green ink: OD of red above that of green, by difference and by ratio
BLACK_OD, BLACK_SPREAD_OD = 1.5, 0.4  # black: the lightest channel's OD, and how much darker the darkest may be
DARKEST = 25  # below this, colour is compression noise
STRIP_ROWS = 1024  # float images exist for this many rows at a time, which bounds memory

_OD_OF_UINT8: Floats = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def tissue_mask(thumbnail: Image, mpp: float) -> Mask:
    """Find the tissue on a thumbnail of a brightfield slide.

    Blue, green or black ink, black borders and white padding are never tissue, and neither are their edges. Tissue
    under ink is lost. Red ink looks like eosin, and navy ink like haematoxylin: neither is recognised.

    Args:
        thumbnail: RGB, (H, W, 3) uint8, area-averaged to about 8 um/px.
        mpp: Micrometres per pixel of the thumbnail.

    Returns:
        (H, W) bool, True on tissue.
    """
    known = ~_ink(thumbnail, mpp)
    white = _white(thumbnail, mpp)
    known &= ~_seam(thumbnail, white, known, mpp)
    textured, level = _texture(thumbnail, known, mpp)
    glass = level[known & ~textured & ~white]
    # The brightest tenth, not the mode: where flat tissue outweighs the glass this errs towards missing little.
    glass_od = np.quantile(glass, 0.1, overwrite_input=True) if glass.size else 0.0
    return _pieces(known & (textured | (level > glass_od + DENSE_OD)), known, mpp)


def tissue_fraction(
    mask: Mask, origins: npt.ArrayLike, cell_size: tuple[float, float], grid_shape: tuple[int, int]
) -> Floats:
    """Measure the share of tissue in every cell of many equal grids: the patches of regions.

    Cells may start and end inside a thumbnail pixel. Coverage is exact, because the integral of a piecewise constant
    image is bilinear between the corners of its pixels. What lies beyond the thumbnail counts as glass.

    Args:
        mask: (H, W) bool.
        origins: (R, 2), x and y of each grid's top-left corner in thumbnail pixels; (0, 0) is a corner of the image.
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
    """Find areas composited to white, with what compression left of their whiteness near their edge."""
    white = cv2.inRange(thumbnail, (WHITE,) * 3, (255,) * 3) > 0
    if not white.any():
        return white
    pad = math.ceil(THIN_UM / mpp) + 1
    # The world beyond the thumbnail is white too, so that a narrow margin counts as well.
    white = _opened(_bordered(white, pad, cv2.BORDER_CONSTANT, value=True), THIN_UM, mpp)[pad:-pad, pad:-pad]
    nearly = cv2.inRange(thumbnail, (NEARLY_WHITE,) * 3, (255,) * 3) > 0
    return white | (nearly & _dilate(white, JPEG_UM, mpp))


def _seam(thumbnail: Image, white: Mask, known: Mask, mpp: float) -> Mask:
    """Find the white beside flat glass that is less white: padding, and the edge between them is artificial.

    White beside tissue stays known: it is overexposed glass, and the contrast to it is what shows pale tissue.
    """
    if not white.any():
        return white
    textured, _ = _texture(thumbnail, known & ~white, mpp)
    glass = _opened(known & ~white & ~textured, THIN_UM, mpp)
    return _dilate(white & _dilate(glass, SEAM_UM, mpp), 1.5, 1.0)  # and the ring of mixed pixels


def _ink(thumbnail: Image, mpp: float) -> Mask:
    """Find ink by colours that stained tissue does not have: red absorbed far more than green, or all black.

    Haematoxylin absorbs green at least as much as red, and the darkest of its nuclei leave some blue.
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
    """Measure where OD varies, and its local mean.

    Both are normalised convolutions over the known pixels (Knutsson and Westin, CVPR 1993), so that an edge of padding
    or ink is no texture.

    Returns:
        (H, W) bool, True where the standard deviation of OD exceeds `TEXTURE_OD`, and (H, W) float32, the mean OD.
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
    """Join what is found into pieces of tissue, trimmed to its edge, and drop what is too thin or too small."""
    pad = math.ceil((GAP_UM + BLEED_UM + THIN_UM) / mpp)
    # What touches the frame goes on beyond it; what does not, such as a scale bar near it, must not be joined to it.
    joined = _dilate(_bordered(found, pad, cv2.BORDER_REPLICATE), GAP_UM, mpp)
    # Unknown pixels are no reason to trim: texture does not bleed into them.
    joined |= _bordered(~known, pad, cv2.BORDER_REPLICATE)
    pieces = _dilate(_erode(joined, GAP_UM + BLEED_UM + THIN_UM, mpp), THIN_UM, mpp)[pad:-pad, pad:-pad] & known
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces.view(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] * (mpp / 1000) ** 2 >= SPECK_MM2
    large[0] = False  # label 0 is what is not in the mask
    kept: Mask = large[labels]
    return kept


class _Strip(NamedTuple):
    """Rows to read (with a margin for the filters), those of them to keep, and where these belong."""

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
    """Sample a table between its entries, its border extended outwards."""
    y, x = np.clip(y, 0, table.shape[0] - 1), np.clip(x, 0, table.shape[1] - 1)
    top, left = np.minimum(y.astype(np.intp), table.shape[0] - 2), np.minimum(x.astype(np.intp), table.shape[1] - 2)
    dy, dx = y - top, x - left
    upper = table[top, left] * (1 - dx) + table[top, left + 1] * dx
    lower = table[top + 1, left] * (1 - dx) + table[top + 1, left + 1] * dx
    between: Doubles = upper * (1 - dy) + lower * dy
    return between
