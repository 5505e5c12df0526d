"""Writing of slides that OpenSlide can read: tiled, pyramidal TIFF with JPEG tiles and a resolution."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

RGB: TypeAlias = npt.NDArray[np.uint8]
Mpp: TypeAlias = float | tuple[float, float] | None
"""um/px, the same along both axes or (x, y); None to omit it from the file."""

_YCBCR_SUBSAMPLING = 530


def write_jpeg_level(
    file: tifffile.TiffWriter, tiles: Iterable[bytes], size: tuple[int, int], mpp: Mpp, level: int, tile_px: int
) -> None:
    """Write one pyramid level from JPEG streams. Call `declare_jpeg` after closing the file.

    Args:
        file: The open file; levels must be written in order.
        tiles: One stream per tile, row by row; consumed while the file is written.
        size: Height and width of the level, px.
        mpp: Resolution of the level; None for all levels except the first.
        level: 0 for the full resolution.
        tile_px: Side of the tiles.
    """
    # tifffile requires a JPEG codec even for tiles that are already encoded: declare deflate, and correct the tag
    # later.
    file.write(
        iter(tiles),
        shape=(*size, 3),
        dtype=np.uint8,
        photometric="rgb",
        compression="adobe_deflate",
        extratags=[(_YCBCR_SUBSAMPLING, "H", 2, (1, 1), True)],
        **level_tags(mpp, level, tile_px),
    )


def declare_jpeg(path: Path) -> None:
    """Set the compression tag of a closed file to JPEG in YCbCr."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            assert isinstance(page, tifffile.TiffPage)
            page.tags["Compression"].overwrite(tifffile.COMPRESSION.JPEG)
            page.tags["PhotometricInterpretation"].overwrite(tifffile.PHOTOMETRIC.YCBCR)


def level_tags(mpp: Mpp, level: int, tile_px: int) -> dict[str, Any]:
    """Return the arguments of `TiffWriter.write` for a page that is a level of a slide."""
    tags: dict[str, Any] = {"tile": (tile_px, tile_px), "subfiletype": int(level > 0), "metadata": None}
    if mpp is not None:
        mpp_x, mpp_y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        tags |= {"resolution": (1e4 / mpp_x, 1e4 / mpp_y), "resolutionunit": "CENTIMETER"}
    return tags


def jpeg_tiles(image: RGB, tile_px: int, quality: int) -> Iterator[bytes]:
    """Cut an image into tiles, row by row, and encode them; tiles beyond its edge repeat the edge."""
    rows, columns = -(-image.shape[0] // tile_px), -(-image.shape[1] // tile_px)
    padded = np.pad(
        image,
        ((0, rows * tile_px - image.shape[0]), (0, columns * tile_px - image.shape[1]), (0, 0)),
        mode="edge",
    )
    for row in range(rows):
        for column in range(columns):
            yield encode_jpeg(padded[row * tile_px :][:tile_px, column * tile_px :][:, :tile_px], quality)


def encode_jpeg(image: RGB, quality: int) -> bytes:
    """Encode an image as JPEG with color at full resolution, as declared by the tags of `write_jpeg_level`."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()
