"""Outlines of tissue as GeoJSON: QuPath edits them, and `slpd embed` reads them as masks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import make_folder, write_text
from slpd_toolkit.core.text import count
from slpd_toolkit.slides.label_pictures import read_label_picture

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

MASKS_FOLDER = "masks"
_CLASS = {"name": "Tissue", "color": [0, 140, 70]}


def write_outlines(source: Path, out: Path, *, crop: bool, only: set[str] | None = None) -> None:
    """Write one GeoJSON file per slide with the outline of its tissue.

    Args:
        source: A folder that `slpd embed` wrote.
        out: Folder to write to.
        crop: Whether coordinates begin at the corner of the scanned area, as in QuPath.
        only: Slide ids to write; None for all.

    Raises:
        UsageError: The folder has no masks, or one cannot be read.
    """
    paths = [path for path in sorted((source / MASKS_FOLDER).glob("*.png")) if only is None or path.stem in only]
    if not paths:
        raise UsageError(
            f"{source} has no tissue masks ({MASKS_FOLDER}/*.png).",
            hint="Write them: slpd embed MANIFEST --out FOLDER --tissue-only.",
        )
    make_folder(out)
    for path in paths:
        try:
            mask, about = read_label_picture(path)
            corner_l0 = about["bounds_corner_l0"] if crop else [0, 0]
            found = outlines(mask, int(about["step_l0"]), (int(corner_l0[0]), int(corner_l0[1])))
        except (OSError, ValueError, KeyError, SyntaxError) as error:
            raise UsageError(f"{path} is not a mask of slpd embed ({error}).", hint="Remove it.") from error
        write_text(out / f"{path.stem}.geojson", json.dumps(found, separators=(",", ":")) + "\n")
    console.note(f"Wrote {count(len(paths), 'slide')} to {out}.")


def outlines(mask: npt.NDArray[np.bool_], step_l0: int, corner_l0: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """Trace the pieces of a mask as polygons with holes.

    Polygons run along the borders of pixels, so that reading them gives the same mask.

    Args:
        mask: (H, W).
        step_l0: Level-0 pixels per pixel of the mask.
        corner_l0: Where coordinates begin, level-0 px.
    """
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [_ring(contour[:, 0], step_l0, corner_l0) for contour in contours]
    parents = hierarchy[0, :, 3].tolist() if len(contours) else []
    polygons = [
        [ring, *(rings[hole] for hole, parent in enumerate(parents) if parent == index)]
        for index, ring in enumerate(rings)
        if parents[index] < 0
    ]
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": polygon},
                "properties": {"objectType": "annotation", "classification": _CLASS},
            }
            for polygon in polygons
        ],
    }


def _ring(points: npt.NDArray[Any], step_l0: int, corner_l0: tuple[int, int]) -> list[list[float]]:
    """Return a closed ring in level-0 pixels, along the borders of the pixels whose halves `points` are."""
    ring: list[list[float]] = ((points + (points & 1)) // 2 * step_l0 - corner_l0).tolist()
    return [*ring, ring[0]]
