"""Makes real slides: tiled, pyramidal TIFF files that OpenSlide opens, and the pictures in them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from slpd_toolkit.demo.tiff import RGB, Mpp, declare_jpeg, encode_jpeg, jpeg_tiles, level_tags, write_jpeg_level

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Compression = Literal["deflate", "jpeg"]

EOSIN = (226, 160, 196)
HAEMATOXYLIN = (112, 72, 150)
GLASS = (243, 241, 242)
_JPEG_QUALITY = 90


def write_slide(
    path: Path,
    rgb: RGB,
    *,
    mpp: Mpp = 0.5,
    downsamples: Sequence[int] = (4,),
    tile_px: int = 256,
    compression: Compression = "deflate",
) -> Path:
    """Write a slide whose pyramid levels are means over `downsample` x `downsample` pixels, rests cut off.

    A side that is no multiple of the downsample makes OpenSlide report 4.0004 instead of 4, as real slides do.

    Args:
        path: The file; its name may end in anything.
        rgb: Level 0, (H, W, 3) uint8.
        mpp: um/px, or (x, y); None writes no resolution.
        downsamples: Of the further levels; () for no pyramid.
        tile_px: Side of the tiles.
        compression: "deflate" keeps pixels exactly, "jpeg" is what scanners write.
    """
    with tifffile.TiffWriter(path) as file:
        for level, image in enumerate([rgb, *(area_mean(rgb, downsample) for downsample in downsamples)]):
            _write_level(file, image, mpp if level == 0 else None, level, tile_px, compression)
    if compression == "jpeg":
        declare_jpeg(path)
    return path


def write_repeated_slide(path: Path, tile: RGB, tiles_across: int, *, mpp: float, downsamples: Sequence[int]) -> Path:
    """Write a huge slide at once: each level has one JPEG tile, and every entry of its tile table points to that one.

    Args:
        path: The file.
        tile: (S, S, 3); S divided by the largest downsample must be a whole number.
        tiles_across: Tiles along each side of level 0.
        mpp: um/px.
        downsamples: Of the further levels.
    """
    side_px = len(tile)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, downsample in enumerate([1, *downsamples]):
            encoded = encode_jpeg(np.tile(area_mean(tile, downsample), (downsample, downsample, 1)), _JPEG_QUALITY)
            across = -(-tiles_across // downsample)
            side = tiles_across * side_px // downsample
            tiles = itertools.chain([encoded], itertools.repeat(b"-", across**2 - 1))
            write_jpeg_level(file, tiles, (side, side), mpp if level == 0 else None, level, side_px)
    with tifffile.TiffFile(path, mode="r+") as written:
        for page in written.pages:
            assert isinstance(page, tifffile.TiffPage)
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.tags[name]
                tag.overwrite([tag.value[0]] * len(tag.value))
    declare_jpeg(path)
    return path


def area_mean(rgb: RGB, downsample: int) -> RGB:
    """Average squares of `downsample` pixels; what is left over at the right and bottom is cut off."""
    rows, columns = rgb.shape[0] // downsample, rgb.shape[1] // downsample
    squares = rgb[: rows * downsample, : columns * downsample].reshape(rows, downsample, columns, downsample, 3)
    means: npt.NDArray[np.float64] = squares.mean(axis=(1, 3), dtype=np.float64)
    return np.round(means).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> RGB:
    """Draw every pixel at random: no smoothness that could hide a shift of half a pixel."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth_noise(height: int, width: int, seed: int = 0, period: int = 24) -> RGB:
    """Draw a colour field that changes over `period` pixels, so that shifts of a fraction of a pixel change little."""
    coarse = noise(height // period + 4, width // period + 4, seed)
    size = (coarse.shape[1] * period, coarse.shape[0] * period)
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), np.uint8)[:height, :width].copy()


def glass(height: int, width: int) -> RGB:
    """An empty slide."""
    return np.full((height, width, 3), GLASS, np.uint8)


def tissue(height: int, width: int, *, mpp: float, seed: int = 0) -> RGB:
    """Stained tissue all over: nuclei of about 8 um in eosin, dense enough to be found as tissue."""
    rng = np.random.default_rng(seed)
    pitch = max(1.0, 16 / mpp)
    rows, columns = int(height / pitch) + 2, int(width / pitch) + 2
    picture = np.full((height, width, 3), EOSIN, np.uint8)
    x = (np.arange(columns) + rng.uniform(-0.3, 0.3, (rows, columns))) * pitch
    y = (np.arange(rows)[:, None] + rng.uniform(-0.3, 0.3, (rows, columns))) * pitch
    radius = rng.uniform(3, 5.5, (rows, columns)) / mpp
    for centre_x, centre_y, r in zip(x.ravel(), y.ravel(), radius.ravel(), strict=True):
        cv2.circle(picture, (round(centre_x), round(centre_y)), max(1, round(r)), HAEMATOXYLIN, -1)
    grain = rng.integers(-6, 7, (height, width, 1))
    grainy: RGB = np.clip(picture + grain, 0, 255).astype(np.uint8)
    return grainy


def tissue_on_glass(
    height: int, width: int, pieces: Sequence[tuple[int, int, int, int]], *, mpp: float, seed: int = 0
) -> RGB:
    """Put rectangles of tissue on glass.

    Args:
        height: Of the slide, px.
        width: Of the slide, px.
        pieces: (left, top, right, bottom) of each, px.
        mpp: um/px.
        seed: Of the nuclei.
    """
    picture, stained = glass(height, width), tissue(height, width, mpp=mpp, seed=seed)
    for left, top, right, bottom in pieces:
        picture[top:bottom, left:right] = stained[top:bottom, left:right]
    return picture


def damage_tile(path: Path, index: int, level: int = 0) -> None:
    """Overwrite the bytes of one tile, so that it can no longer be decoded while the rest of the file is whole."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        assert isinstance(page, tifffile.TiffPage)
        offset, size = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\x00" * size)


def _write_level(
    file: tifffile.TiffWriter, image: RGB, mpp: Mpp, level: int, tile_px: int, compression: Compression
) -> None:
    if compression == "jpeg":
        tiles = jpeg_tiles(image, tile_px, _JPEG_QUALITY)
        write_jpeg_level(file, tiles, image.shape[:2], mpp, level, tile_px)
        return
    file.write(
        image,
        photometric="rgb",
        compression="adobe_deflate",
        compressionargs={"level": 1},
        **level_tags(mpp, level, tile_px),
    )


def write_scn(path: Path, rgb: RGB, corner_l0: tuple[int, int], size_l0: tuple[int, int], *, mpp: float = 0.5) -> Path:
    """Write a Leica SCN whose only scanned area covers a part of the slide: OpenSlide reports it as its bounds.

    Args:
        path: The file.
        rgb: (H, W, 3) uint8, the scanned area at full resolution.
        corner_l0: Its top-left corner (x, y), level-0 px.
        size_l0: Width and height of the whole slide, level-0 px.
        mpp: um/px.
    """
    nm = round(mpp * 1000)
    images = "".join(
        f'<image><view sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{x * nm}" offsetY="{y * nm}"/>'
        f'<pixels sizeX="{columns}" sizeY="{rows}"><dimension ifd="{ifd}" sizeX="{columns}" sizeY="{rows}" r="0"/>'
        f"</pixels><scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
        "</scanSettings></image>"
        for (x, y), (width, height), (columns, rows), ifd, power in (
            (corner_l0, (rgb.shape[1], rgb.shape[0]), (rgb.shape[1], rgb.shape[0]), 1, 20),
            ((0, 0), size_l0, (64, 64), 0, 1),
        )
    )
    described = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{size_l0[0] * nm}" sizeY="{size_l0[1] * nm}">{images}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for image, description in ((glass(64, 64), described), (rgb, None)):
            file.write(
                image,
                tile=(256, 256),
                photometric="rgb",
                compression="adobe_deflate",
                metadata=None,
                description=description,
            )
    return path
