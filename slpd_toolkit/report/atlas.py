"""The prototype atlas: for each slide, a map of its prototypes and the regions nearest to each of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from slpd_toolkit.core.figures.pictures import COLOURS
from slpd_toolkit.core.files import atomic_path, write_text
from slpd_toolkit.report.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

THUMBNAIL_PX = 160
_MAP_PX = 220
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Prototype:
    """One prototype of a slide."""

    number: int
    regions: int
    """Number of regions in its cluster."""
    cosine: float
    """Mean cosine similarity of its regions to it; NaN if it has none."""
    picture: str
    """URL of the image strip of its nearest regions; empty if there are no pixels."""
    counterpart: str
    """The corresponding prototype of the most similar slide, as text."""

    @property
    def colour(self) -> str:
        """Color on the map."""
        return COLOURS[self.number % len(COLOURS)]


@dataclass(frozen=True)
class SlidePage:
    """One slide of the atlas."""

    slide_id: str
    regions: int
    prototypes: Sequence[Prototype]
    neighbours: Sequence[tuple[str, float, bool]]
    """Similar slides, their mean cosine, and whether they are in this atlas; best first."""
    squares: Sequence[tuple[float, float, float, str]]
    """x, y, side and color of every region on the map, 0-100."""
    width: float
    height: float


def map_squares(
    coords_l0: npt.NDArray[np.int64], region_l0: int, clusters: npt.NDArray[np.int64]
) -> tuple[list[tuple[float, float, float, str]], float, float]:
    """Lay a slide's regions out on a map whose longer side is 100.

    Returns:
        (x, y, side, color) of every region, and the map's width and height.
    """
    origin = coords_l0.min(axis=0)
    extent = coords_l0.max(axis=0) + region_l0 - origin
    scale = 100 / extent.max()
    squares = [
        (float((x - origin[0]) * scale), float((y - origin[1]) * scale), region_l0 * scale, COLOURS[k % len(COLOURS)])
        for (x, y), k in zip(coords_l0.tolist(), clusters.tolist(), strict=True)
    ]
    return squares, float(extent[0] * scale), float(extent[1] * scale)


def write_strip(path: Path, thumbnails: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Write thumbnails of equal size side by side as one JPEG."""
    gap = np.full((thumbnails[0].shape[0], 4, 3), 255, np.uint8)
    strip = np.concatenate([part for thumbnail in thumbnails for part in (thumbnail, gap)][:-1], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())


def write_atlas(path: Path, title: str, pages: Sequence[SlidePage], total: int, step: int) -> None:
    """Write the page of the atlas.

    Args:
        path: The HTML file; its images are in the same folder.
        title: Name of the run.
        pages: The slides to show.
        total: Number of slides with prototypes.
        step: Number of steps that the teacher had been trained for.
    """
    page = render(
        "atlas.html", title=title, pages=pages, total=total, step=step, map_px=_MAP_PX, thumbnail_px=THUMBNAIL_PX
    )
    write_text(path, page)
