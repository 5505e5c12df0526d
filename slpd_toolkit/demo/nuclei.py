"""Nuclei: images of the nuclei of each type of cell, and drawing them on a section."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.demo.fields import Floats


class Cell(IntEnum):
    """Type of cell that a nucleus belongs to."""

    TUMOUR = 0
    LYMPHOCYTE = 1
    FIBROBLAST = 2
    EPITHELIUM = 3


class Look(NamedTuple):
    """Appearance of the nuclei of a type of cell; lengths in um."""

    length: float
    width: float
    spread: float
    """Relative standard deviation of size and shape."""
    darkness: float
    """Amount of hematoxylin, 0-1."""
    rim: float
    """How much paler the inside is than the membrane, 0-1; high for vesicular nuclei."""
    grain: float
    """Strength of chromatin clumping, 0-1."""
    nucleolus: float
    """Fraction of nuclei with a visible nucleolus."""


LOOKS = {
    Cell.TUMOUR: Look(10.2, 7.8, 0.22, 0.60, 0.32, 0.40, 0.5),
    Cell.LYMPHOCYTE: Look(6.6, 6.1, 0.08, 0.86, 0.05, 0.22, 0.0),
    Cell.FIBROBLAST: Look(13.5, 3.2, 0.22, 0.80, 0.05, 0.20, 0.0),
    Cell.EPITHELIUM: Look(9.5, 5.4, 0.12, 0.66, 0.20, 0.30, 0.1),
}

TURNS = 16
"""Number of orientations in which each shape is drawn, over half a turn."""
_SHAPES = 24
_MARGIN = 1.45  # side of an image, in longest diameters
_CHUNK = 1 << 22  # pixels drawn at a time, to limit memory


class Nuclei(NamedTuple):
    """Nuclei of one type on a slide."""

    x_um: Floats
    y_um: Floats
    angle: Floats
    """Angle from x to the long axis, radians."""
    shape: npt.NDArray[np.intp]
    """Index of the shape in the bank."""

    def within(self, left: float, top: float, right: float, bottom: float) -> Nuclei:
        """Return the nuclei whose center is in a rectangle, um."""
        inside = (self.x_um >= left) & (self.x_um < right) & (self.y_um >= top) & (self.y_um < bottom)
        return Nuclei(self.x_um[inside], self.y_um[inside], self.angle[inside], self.shape[inside])


def make_nuclei(rng: np.random.Generator, x_um: Floats, y_um: Floats, angle: Floats | None = None) -> Nuclei:
    """Choose random shapes for nuclei at given positions, and random orientations unless `angle` is given."""
    if angle is None:
        angle = rng.uniform(0, np.pi, len(x_um)).astype(np.float32)
    return Nuclei(x_um.astype(np.float32), y_um.astype(np.float32), angle, rng.integers(0, _SHAPES, len(x_um)))


@dataclass(frozen=True)
class Bank:
    """Images of one type of nucleus."""

    stamps: npt.NDArray[np.uint8]
    """(shapes, orientations, S, S) amount of hematoxylin."""
    mpp: float

    def print_on(self, canvas: npt.NDArray[np.uint8], nuclei: Nuclei, left_um: float, top_um: float) -> None:
        """Draw nuclei on an (H, W) map of amounts whose first pixel is at (left, top), um; the darker amount wins."""
        side = self.stamps.shape[-1]
        # A border receives the parts that stick out; nuclei that are completely outside are removed first.
        x = np.round((nuclei.x_um - left_um) / self.mpp).astype(np.intp) + side - side // 2
        y = np.round((nuclei.y_um - top_um) / self.mpp).astype(np.intp) + side - side // 2
        height, width = canvas.shape
        kept = (x >= 0) & (y >= 0) & (x < width + side) & (y < height + side)
        x, y, shape, angle = x[kept], y[kept], nuclei.shape[kept], nuclei.angle[kept]
        turn = np.round(angle / np.pi * TURNS).astype(np.intp) % TURNS
        bordered = np.zeros((height + 2 * side, width + 2 * side), np.uint8)
        flat, pitch = bordered.ravel(), bordered.shape[1]
        offset = (np.arange(side)[:, None] * pitch + np.arange(side)).ravel()
        step = max(1, _CHUNK // side**2)
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            at = (y[part] * pitch + x[part])[:, None] + offset
            np.maximum.at(flat, at.ravel(), self.stamps[shape[part], turn[part]].ravel())
        np.maximum(canvas, bordered[side : side + height, side : side + width], out=canvas)


def draw_bank(rng: np.random.Generator, look: Look, mpp: float) -> Bank:
    """Draw the shapes of one type of nucleus in all orientations, at `mpp` um/px."""
    side = 2 * int(look.length * (1 + look.spread) * _MARGIN / mpp / 2) + 1
    axis = ((np.arange(side) - side // 2) * mpp).astype(np.float32)
    angles = np.arange(TURNS, dtype=np.float32) * np.pi / TURNS
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    along, across = axis * cos + axis[:, None] * sin, axis[:, None] * cos - axis * sin  # (turns, S, S) um
    stamps = np.zeros((_SHAPES, TURNS, side, side), np.uint8)
    for shape in range(_SHAPES):
        length, width = look.length * rng.normal(1, look.spread), look.width * rng.normal(1, look.spread)
        limits = 0.55 * look.width, look.length * (1 + 1.5 * look.spread)
        length, width = (np.clip([length, width], *limits) / 2).tolist()  # Python's numbers keep arrays in float32
        bend = rng.normal(0, 0.25 * look.spread) * (along / length) ** 2 * width * 2
        theta = np.arctan2(across / width, along / length)
        lobes = sum(
            rng.normal(0, 0.16 * look.spread) * np.cos(m * theta + rng.uniform(0, 2 * np.pi)) for m in (2, 3, 5)
        )
        radius = np.hypot(along / length, (across - bend) / width) * (1 + lobes)
        cover = np.clip((1 - radius) * min(length, width) / mpp + 0.5, 0, 1)  # antialiased over one pixel
        stamps[shape] = np.round(255 * cover * _chromatin(rng, look, radius, along / length, across / width, mpp))
    return Bank(stamps, mpp)


def _chromatin(
    rng: np.random.Generator, look: Look, radius: Floats, along: Floats, across: Floats, mpp: float
) -> Floats:
    """Compute the amount of hematoxylin inside a nucleus; 1 is the maximum."""
    side = radius.shape[-1]
    white = rng.normal(size=(TURNS, side, side)).astype(np.float32)
    clumps = np.stack([cv2.GaussianBlur(turn, (0, 0), 0.45 / mpp) for turn in white])
    clumps = np.asarray(clumps / clumps.std(), np.float32)
    pale = look.rim * (1 - np.clip(radius, 0, 1) ** 3)
    amount = look.darkness * rng.normal(1, 0.6 * look.spread) * (1 - pale) * (1 + 0.5 * look.grain * clumps)
    if rng.random() < look.nucleolus:
        at_x, at_y = rng.uniform(-0.35, 0.35, 2)
        spot = np.exp(-(((along - at_x) ** 2 + (across - at_y) ** 2) / 0.035))
        amount += 0.4 * spot
    return np.asarray(np.clip(amount, 0.12, 1), np.float32)
