"""Generation of one slide file, with its ground truth in a file next to it."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import tifffile

from slpd_toolkit.core.files import atomic_path, write_text
from slpd_toolkit.demo.anatomy import MAP_UM, REGION_UM, Anatomy, grow, outline
from slpd_toolkit.demo.architectures import Architecture, Kind
from slpd_toolkit.demo.artefacts import draw_artefacts
from slpd_toolkit.demo.cohort_plan import plant
from slpd_toolkit.demo.painter import Painter
from slpd_toolkit.demo.stain import draw_stain
from slpd_toolkit.demo.tiff import declare_jpeg, encode_jpeg, jpeg_tiles, write_jpeg_level

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.demo.cohort_plan import PlannedSlide

SUFFIX, TRUTH_SUFFIX = ".tiff", ".truth.json"
TILE_PX = 256
BAND_PX = 512
"""Side of the squares that are rendered at a time: their arrays fit into the cache of a core."""
FURTHER_LEVELS = (4, 4)
"""Downsampling of the third and later levels relative to the level before; that of the second is 2."""
JPEG_QUALITY = 85


def paint_slide(planned: PlannedSlide, folder: Path) -> None:
    """Generate a slide in `folder`, unless it exists; its ground truth is written first."""
    path = folder / f"{planned.slide_id}{SUFFIX}"
    if path.exists():
        return
    cv2.setNumThreads(1)  # slides are generated in parallel
    rng, anatomy, tissue = build_anatomy(planned)
    artefacts = draw_artefacts(rng, tissue, planned.artefacts)
    painter = Painter(rng, anatomy, artefacts, draw_stain(rng), planned.mpp)
    write_text(folder / f"{planned.slide_id}{TRUTH_SUFFIX}", json.dumps(truth(planned, anatomy), indent=1))
    with atomic_path(path) as unfinished:
        write_pyramid(unfinished, painter, planned)


def build_anatomy(planned: PlannedSlide) -> tuple[np.random.Generator, Anatomy, npt.NDArray[np.bool_]]:
    """Draw the outline of a slide, and generate its planned anatomy.

    Returns:
        The random generator for the remaining steps, the anatomy, and the (H, W) tissue mask.
    """
    rng = np.random.default_rng(planned.seed)
    shape = (round(planned.rows * REGION_UM / MAP_UM), round(planned.columns * REGION_UM / MAP_UM))
    tissue = outline(rng, shape)
    planted = plant(rng, planned.mixture, _share_of_squares(tissue))
    return rng, grow(rng, planted, tissue, planned.mpp), tissue


def truth(planned: PlannedSlide, anatomy: Anatomy) -> dict[str, object]:
    """Return the plan of a slide and the resulting ground truth, as plain JSON types."""
    tissue = anatomy.architecture > 0
    squares = {kind.name.lower(): _share_of_squares(anatomy.architecture == kind) for kind in Architecture}
    regions = []
    for row, column in np.ndindex(planned.rows, planned.columns):
        shares = {name: round(float(share[row, column]), 4) for name, share in squares.items()}
        covered = sum(shares.values())
        if covered > 0:
            regions.append(
                {
                    "row": row,
                    "column": column,
                    "x_um": column * REGION_UM,
                    "y_um": row * REGION_UM,
                    "tissue": round(covered, 4),
                    "architecture": max(shares, key=lambda name: shares[name]),
                    "shares": {name: share for name, share in shares.items() if share},
                }
            )
    counts = np.bincount(anatomy.architecture[tissue], minlength=len(Architecture) + 1)[1:]
    kinds = np.bincount(anatomy.kinds[tissue], minlength=len(Kind))
    return {
        "slide_id": planned.slide_id,
        "patient_id": planned.patient_id,
        "label": planned.label,
        "mpp": planned.mpp,
        "region_um": REGION_UM,
        "artefacts": [artefact.value for artefact in planned.artefacts],
        "planned_mixture": _named(np.array(planned.mixture)),
        "mixture": _named(counts / counts.sum()),
        "kinds": {
            kind.name.lower(): round(float(kinds[kind] / tissue.sum()), 4) for kind in Kind if kind is not Kind.GLASS
        },
        "regions": regions,
    }


def write_pyramid(path: Path, painter: Painter, planned: PlannedSlide) -> None:
    """Write all levels; only the second level, a quarter of the slide, is held in memory."""
    height, width = (round(squares * REGION_UM / planned.mpp) for squares in (planned.rows, planned.columns))
    half = np.empty((height // 2, width // 2, 3), np.uint8)
    write = partial(write_jpeg_level, tile_px=TILE_PX)
    with tifffile.TiffWriter(path) as file:
        write(file, _painted_tiles(painter, height, width, half), (height, width), planned.mpp, 0)
        level_rgb = half
        for level in range(1, len(FURTHER_LEVELS) + 2):
            if level > 1:
                level_rgb = _shrunk(level_rgb, FURTHER_LEVELS[level - 2])
            write(file, jpeg_tiles(level_rgb, TILE_PX, JPEG_QUALITY), level_rgb.shape[:2], None, level)
    declare_jpeg(path)


def _painted_tiles(painter: Painter, height: int, width: int, half: npt.NDArray[np.uint8]) -> Iterator[bytes]:
    """Render a slide from top to bottom and yield its tiles; fills `half` with the slide at half resolution."""
    across = -(-width // TILE_PX)
    empty_tile = encode_jpeg(painter.paint(-8 * BAND_PX, -8 * BAND_PX, TILE_PX, TILE_PX), JPEG_QUALITY)
    for top in range(0, height, BAND_PX):
        band = np.empty((BAND_PX, across * TILE_PX, 3), np.uint8)
        empty = np.zeros((BAND_PX // TILE_PX, across), np.bool_)
        for left in range(0, across * TILE_PX, BAND_PX):
            square = band[:, left : left + BAND_PX]
            square[:] = painter.paint(left, top, square.shape[1], BAND_PX)
            for row, column in np.ndindex(empty.shape[0], square.shape[1] // TILE_PX):
                x, y = left + column * TILE_PX, top + row * TILE_PX
                empty[row, x // TILE_PX] = painter.is_empty(x, y, TILE_PX, TILE_PX)
        small = _shrunk(band, 2)[: len(half) - top // 2, : half.shape[1]]
        half[top // 2 : top // 2 + len(small)] = small
        for row, column in np.ndindex(min(empty.shape[0], -(-(height - top) // TILE_PX)), across):
            x, y = column * TILE_PX, row * TILE_PX
            yield (
                empty_tile if empty[row, column] else encode_jpeg(band[y : y + TILE_PX, x : x + TILE_PX], JPEG_QUALITY)
            )


def _shrunk(rgb: npt.NDArray[np.uint8], downsample: int) -> npt.NDArray[np.uint8]:
    """Downsample by averaging squares of pixels; incomplete squares at the right and bottom are cut off."""
    height, width = rgb.shape[0] // downsample, rgb.shape[1] // downsample
    whole = rgb[: height * downsample, : width * downsample]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _share_of_squares(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the fraction of each square of `REGION_UM` in which a map is True: (rows, columns)."""
    side = round(REGION_UM / MAP_UM)
    rows, columns = where.shape[0] // side, where.shape[1] // side
    shares: npt.NDArray[np.float64] = where.reshape(rows, side, columns, side).mean(axis=(1, 3))
    return shares


def _named(mixture: npt.NDArray[np.float64]) -> dict[str, float]:
    return {kind.name.lower(): round(float(share), 4) for kind, share in zip(Architecture, mixture, strict=True)}
