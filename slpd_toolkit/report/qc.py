"""Quality control of stage one: one image per slide with its tissue and kept regions, and a contact sheet."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import atomic_path, is_safe_name, write_text
from slpd_toolkit.report.outliers import find_outliers
from slpd_toolkit.report.pages import render
from slpd_toolkit.slides.label_pictures import about_label_picture, write_label_picture
from slpd_toolkit.store.token_file import TokenFile, token_paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.slides.plan import SlidePlan

CONTACT_SHEET = "index.html"
MASKS_FOLDER = "masks"
TISSUE_RGB = (0, 140, 70)
REGION_RGB = (30, 60, 200)
_SIDE_PX = 1200
_JPEG_QUALITY = 85
_NOTICED_UPSAMPLING = 1.01


def draw_overlay(path: Path, plan: SlidePlan) -> None:
    """Write a JPEG of the slide's thumbnail with the outline of its tissue (green) and its kept regions (blue)."""
    height_th, width_th = plan.mask.shape
    step_l0, region_l0 = plan.thumbnail.step_l0, plan.lattice.region_l0
    # The canvas contains whole regions, so that padding beyond the slide border is visible.
    corners = plan.coords_l0 if len(plan) else np.zeros((0, 2), np.int64)
    right_l0, bottom_l0 = corners.max(axis=0) + region_l0 if len(corners) else (0, 0)
    width_l0, height_l0 = max(width_th * step_l0, int(right_l0)), max(height_th * step_l0, int(bottom_l0))
    scale = min(_SIDE_PX / max(width_l0, height_l0), 1 / step_l0)
    canvas = np.full((max(1, round(height_l0 * scale)), max(1, round(width_l0 * scale)), 3), 235, np.uint8)
    size = (max(1, round(width_th * step_l0 * scale)), max(1, round(height_th * step_l0 * scale)))
    picture = cv2.resize(plan.thumbnail.rgb, size, interpolation=cv2.INTER_AREA)
    canvas[: size[1], : size[0]] = picture[: canvas.shape[0], : canvas.shape[1]]
    small_mask = cv2.resize(plan.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(small_mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, outlines, -1, TISSUE_RGB, 2, cv2.LINE_AA)
    for x_l0, y_l0 in corners:
        first = (round(float(x_l0) * scale), round(float(y_l0) * scale))
        last = (round(float(x_l0 + region_l0) * scale) - 1, round(float(y_l0 + region_l0) * scale) - 1)
        cv2.rectangle(canvas, first, last, REGION_RGB, 2, cv2.LINE_AA)
    with atomic_path(path) as partial:
        buffer = io.BytesIO()
        Image.fromarray(canvas).save(buffer, "JPEG", quality=_JPEG_QUALITY)
        partial.write_bytes(buffer.getvalue())


def write_mask(path: Path, plan: SlidePlan) -> None:
    """Write a slide's mask as PNG at the resolution of its thumbnail, with its scale and what was measured."""
    about: dict[str, Any] = {
        "step_l0": plan.thumbnail.step_l0,
        "bounds_corner_l0": plan.bounds_corner_l0,
        "mpp_l0": plan.lattice.mpp_l0,
        "regions": len(plan),
    }
    if plan.quality is not None:
        red, green, blue = plan.quality.color
        measured = {"tissue_share": plan.quality.tissue_share, "focus": plan.quality.focus}
        about |= measured | {"red": red, "green": green, "blue": blue}
    write_label_picture(path, plan.mask, about)


def write_contact_sheet(cache: Path, folder: Path, failures: Sequence[Failure]) -> None:
    """Write `folder`/`CONTACT_SHEET`: every token file of the cache with its image, failures first.

    It shows the whole cache, not only this run, so that array jobs and resumed runs produce one complete sheet.
    """
    done: list[dict[str, Any]] = []
    for path in token_paths(cache):
        try:
            slide = TokenFile.open(path)
        except CacheError:
            continue  # the run has reported it
        meta = slide.meta
        done.append(
            {
                "slide_id": meta.slide_id,
                "picture": _picture(folder, meta.slide_id),
                "regions": len(slide),
                "tissue": f"{slide.tissue.mean(dtype=np.float64):.0%}" if len(slide) else "no",
                "mpp": f"{meta.mpp_l0:.4g} um/px at level 0, read at {meta.effective_mpp:.4g}",
                "notice": f"upsampled by a factor of {meta.upsampling:.2f} to the target resolution"
                if meta.upsampling > _NOTICED_UPSAMPLING
                else "",
            }
        )
    measures = {path.stem: about_label_picture(path) for path in sorted((cache / MASKS_FOLDER).glob("*.png"))}
    known = {item["slide_id"] for item in done} | {failure.slide_id for failure in failures}
    done += [_without_tokens(folder, slide_id, about) for slide_id, about in measures.items() if slide_id not in known]
    outliers = [
        {"slide_id": slide_id, "picture": _picture(folder, slide_id), "flags": flags}
        for slide_id, flags in find_outliers(measures).items()
    ]
    failed = [{**asdict(failure), "picture": _picture(folder, failure.slide_id)} for failure in failures]
    page = render(
        "contact_sheet.html",
        cache=cache.resolve().name,
        done=done,
        failures=failed,
        outliers=outliers,
        regions=sum(item["regions"] for item in done),
        tissue_rgb=TISSUE_RGB,
        region_rgb=REGION_RGB,
    )
    write_text(folder / CONTACT_SHEET, page)


def _without_tokens(folder: Path, slide_id: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a slide of which there is a mask only."""
    return {
        "slide_id": slide_id,
        "picture": _picture(folder, slide_id),
        "regions": about.get("regions", 0),
        "tissue": f"not embedded; {about.get('tissue_share', 0):.0%} of the slide is",
        "mpp": f"{about.get('mpp_l0', 0):.4g} um/px at level 0",
        "notice": "",
    }


def _picture(folder: Path, slide_id: str) -> str:
    name = f"{slide_id}.jpg"
    return quote(name) if is_safe_name(slide_id) and (folder / name).is_file() else ""
