"""Measures that reveal bad slides: tissue fraction, color and focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from slpd_toolkit.core.errors import SlideError

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.slides.regions import Lattice
    from slpd_toolkit.slides.slide import Slide

_SQUARES, _SQUARE_PX = 4, 256
_FLAT = 4.0
"""Variance of brightness below which a square has nothing that could be in focus."""


@dataclass(frozen=True)
class Quality:
    """Measures of one slide."""

    tissue_share: float
    """Share of the slide that is tissue, or in its mask; 0-1."""
    color: tuple[float, float, float]
    """Mean red, green and blue of it, 0-255."""
    focus: float
    """Variance of the Laplacian of brightness over the variance of brightness, at the target resolution: the median of
    four squares with much tissue. Low if out of focus; 0 if it could not be measured."""


def measure(
    slide: Slide,
    lattice: Lattice,
    rgb: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    patch_tissue: npt.NDArray[np.float32],
) -> Quality:
    """Measure a slide.

    Args:
        slide: The slide.
        lattice: Its regions.
        rgb: (H, W, 3), its thumbnail.
        mask: (H, W), its tissue.
        patch_tissue: (rows, columns), tissue fraction of every patch of the lattice.
    """
    red, green, blue = (float(value) for value in rgb[mask].mean(axis=0)) if mask.any() else (0.0, 0.0, 0.0)
    order = np.argsort(-patch_tissue, axis=None, kind="stable")
    full = order[: max(1, int((patch_tissue > 0.9).sum()))]
    chosen = full[np.linspace(0, len(full) - 1, min(_SQUARES, len(full))).astype(np.intp)]
    side_l0 = max(1, round(_SQUARE_PX * lattice.patch_l0 / lattice.patch_px))
    found = []
    for index in chosen.tolist():
        row, column = divmod(index, patch_tissue.shape[1])
        try:
            square = slide.read(round(column * lattice.patch_l0), round(row * lattice.patch_l0), side_l0, _SQUARE_PX)
        except SlideError:  # embedding finds and names what cannot be read
            continue
        grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY).astype(np.float32)
        if (variance := float(grey.var())) > _FLAT:
            found.append(float(cv2.Laplacian(grey, cv2.CV_32F).var()) / variance)
    return Quality(float(mask.mean()), (red, green, blue), float(np.median(found)) if found else 0.0)
