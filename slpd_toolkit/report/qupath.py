"""Scores as GeoJSON that QuPath (0.4 or later) opens by drag and drop, or with File > Import objects from file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.files import write_text
from slpd_toolkit.report.overlays import colours

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.report.scores import SlideScores

_CLASSES = 5
_NAMES = {"rank": "score rank", "linear": "scaled score"}


def write_geojson(
    path: Path,
    slide: SlideScores,
    values: FloatArray,
    scale: Literal["rank", "linear"],
    corner_l0: tuple[int, int] = (0, 0),
) -> None:
    """Write a FeatureCollection of tiles atomically.

    Tiles are QuPath's lightweight objects, fast even in thousands. Each has its score, raw and scaled to 0-1, as
    measurements (Measure > Show measurement maps), its own color, and one of five classes for filtering.

    Args:
        path: The file.
        slide: Squares with their scores, level-0 px of the whole slide.
        values: (n,) 0-1, from `overlays.colour_values`.
        scale: How scores were mapped to values.
        corner_l0: Top-left corner (x, y) of what QuPath shows, level-0 px of the whole slide. QuPath crops an image to
            OpenSlide's bounds and counts full-resolution pixels from their corner, unless the image was added with
            `--no-crop` (`OpenslideImageServer`, since QuPath 0.2).
    """
    found = feature_collection(slide, values, scale, corner_l0)
    write_text(path, json.dumps(found, allow_nan=False, separators=(",", ":")) + "\n")


def feature_collection(
    slide: SlideScores, values: FloatArray, scale: Literal["rank", "linear"], corner_l0: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """Describe a slide's squares as GeoJSON; names keep the coordinates of the whole slide."""
    left_l0, top_l0 = corner_l0
    name = _NAMES[scale]
    classes = np.minimum((values * _CLASSES).astype(np.int64), _CLASSES - 1)
    middles = colours((np.arange(_CLASSES) + 0.5) / _CLASSES).tolist()
    parts = (slide.coords_l0, slide.sizes_l0, slide.scores, values, classes, colours(values))
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [_ring(x - left_l0, y - top_l0, size)]},
                "properties": {
                    "objectType": "tile",
                    "name": f"{slide.slide_id} x {x} y {y}",
                    "color": colour,
                    "classification": {"name": _class_name(name, band), "color": middles[band]},
                    "measurements": {"score": score, name: value},
                },
            }
            for (x, y), size, score, value, band, colour in zip(*(part.tolist() for part in parts), strict=True)
        ],
    }


def _ring(x_l0: int, y_l0: int, size_l0: int) -> list[list[int]]:
    """Return the corners of a square as a closed ring."""
    right, bottom = x_l0 + size_l0, y_l0 + size_l0
    return [[x_l0, y_l0], [right, y_l0], [right, bottom], [x_l0, bottom], [x_l0, y_l0]]


def _class_name(name: str, band: int) -> str:
    return f"{name} {band / _CLASSES:.1f}-{(band + 1) / _CLASSES:.1f}"
