"""Artifacts of real slides: pen marks, folds, out-of-focus areas, dust."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from slpd_toolkit.demo.anatomy import MAP_UM
from slpd_toolkit.demo.fields import smooth

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy.typing as npt

    from slpd_toolkit.demo.fields import Floats


class Artefact(StrEnum):
    """Name of an artifact, as in the ground truth."""

    PEN = "pen"
    FOLD = "fold"
    BLUR = "blur"


INKS = {"blue": (38, 62, 150), "green": (24, 118, 74), "black": (28, 26, 30)}
"""RGB of white glass under a stroke of a felt pen."""


class Artefacts(NamedTuple):
    """Artifacts of a slide: (H, W) maps, 0 to 1; None for artifacts that it does not have."""

    pen: Floats | None
    ink: tuple[int, int, int]
    fold: Floats | None
    blur: Floats | None
    dust: Floats


def draw_artefacts(rng: np.random.Generator, tissue: npt.NDArray[np.bool_], wanted: Collection[Artefact]) -> Artefacts:
    """Draw the artifacts of a slide.

    Args:
        rng: Random generator.
        tissue: (H, W) tissue mask.
        wanted: Artifacts to draw; dust is always drawn.
    """
    ink = tuple(INKS.values())[int(rng.integers(len(INKS)))]
    return Artefacts(
        pen=_pen(rng, tissue) if Artefact.PEN in wanted else None,
        ink=ink,
        fold=_fold(rng, tissue) if Artefact.FOLD in wanted else None,
        blur=_blur(rng, tissue) if Artefact.BLUR in wanted else None,
        dust=_dust(rng, tissue.shape),
    )


def _pen(rng: np.random.Generator, tissue: npt.NDArray[np.bool_]) -> Floats:
    """Draw an arc next to the section, like the pen mark of a pathologist."""
    height, width = tissue.shape
    y, x = np.nonzero(tissue)
    centre, reach = np.array([x.mean(), y.mean()]), np.array([np.ptp(x), np.ptp(y)]) / 2 * rng.uniform(0.92, 1.06)
    theta = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(1.2, 2.4), 90)
    wobble = 1 + 0.03 * np.cumsum(rng.normal(0, 0.25, 90))
    points = centre + reach * wobble[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
    stroke = np.zeros((height, width), np.uint8)
    thickness = round(rng.uniform(90, 150) / MAP_UM)
    cv2.polylines(stroke, [np.round(points * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(stroke.astype(np.float32) / 255, (0, 0), 5 / MAP_UM)
    return np.asarray(soft * np.clip(0.95 + 0.03 * smooth(rng, tissue.shape, 40 / MAP_UM), 0, 1), np.float32)


def _fold(rng: np.random.Generator, tissue: npt.NDArray[np.bool_]) -> Floats:
    """Draw a narrow winding band in which the section overlaps itself, dark along its edge."""
    y, x = np.nonzero(tissue)
    here = int(rng.integers(len(x)))
    turn, length = rng.uniform(0, np.pi), rng.uniform(500, 1100) / MAP_UM
    rows, columns = np.mgrid[: tissue.shape[0], : tissue.shape[1]].astype(np.float32)
    along = (columns - x[here]) * np.cos(turn) + (rows - y[here]) * np.sin(turn)
    across = (rows - y[here]) * np.cos(turn) - (columns - x[here]) * np.sin(turn)
    across += 22 / MAP_UM * smooth(rng, tissue.shape, 260 / MAP_UM)
    half = 26 / MAP_UM * np.clip(1 - (along / length) ** 2, 0, 1) ** 0.5
    inside = np.clip((half - np.abs(across)) * MAP_UM / 3, 0, 1)
    edge = np.exp(-(((half - np.abs(across)) * MAP_UM / 4) ** 2)) * inside
    return np.asarray(np.clip(0.72 * inside + 0.5 * edge, 0, 1) * tissue, np.float32)


def _blur(rng: np.random.Generator, tissue: npt.NDArray[np.bool_]) -> Floats:
    """Draw an out-of-focus area."""
    y, x = np.nonzero(tissue)
    here = int(rng.integers(len(x)))
    rows, columns = np.mgrid[: tissue.shape[0], : tissue.shape[1]].astype(np.float32)
    distance = np.hypot(rows - y[here], columns - x[here]) * MAP_UM + 90 * smooth(rng, tissue.shape, 300 / MAP_UM)
    return np.asarray(np.clip((rng.uniform(450, 700) - distance) / 220, 0, 1), np.float32)


def _dust(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    specks = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(3, 9))):
        centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        axes = (int(rng.integers(1, 5)), int(rng.integers(1, 4)))
        cv2.ellipse(specks, centre, axes, float(rng.uniform(0, 180)), 0, 360, int(rng.integers(70, 190)), -1)
    return cv2.GaussianBlur(specks.astype(np.float32) / 255, (0, 0), 1.0).astype(np.float32)
