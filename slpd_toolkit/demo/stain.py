"""Colors for amounts of hematoxylin and eosin, by the Beer-Lambert law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
"""Optical density of red, green and blue, length 1: Ruifrok and Johnston, Anal Quant Cytol Histol 2001;23:291-9."""
PINK_EOSIN = (0.130, 0.830, 0.545)
"""Eosin as in the slides of many laboratories, less magenta; slides lie between the two."""
PURPLE_HAEMATOXYLIN = (0.540, 0.770, 0.340)
"""Hematoxylin with a redder hue, likewise."""

LEVELS = 256
OD_STEP = 1 / 80
"""Optical density per step of the amounts of stain, which are stored as bytes; the maximum is 3.2."""


@dataclass(frozen=True)
class Stain:
    """Stain of a laboratory, and scanner."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    haematoxylin_gain: float
    eosin_gain: float
    glass: tuple[float, float, float]
    """RGB of empty glass, 0-255."""
    focus_px: float
    """Gaussian sigma of the scanner's optics, level-0 px."""

    def palette(self) -> npt.NDArray[np.uint8]:
        """Return the color of every pair of amounts: (256 hematoxylin, 256 eosin, 3) uint8."""
        amount = np.arange(LEVELS) * OD_STEP
        density = (
            amount[:, None, None] * self.haematoxylin_gain * np.array(self.haematoxylin)
            + amount[None, :, None] * self.eosin_gain * np.array(self.eosin)
        )  # fmt: skip
        colours: npt.NDArray[np.float64] = np.array(self.glass) * np.exp(-density)
        return np.round(colours).astype(np.uint8)


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw the stain and scanner of a slide: hue, strength, light and focus vary as between laboratories."""
    pinkness = rng.uniform(0.3, 0.8)
    eosin = (1 - pinkness) * np.array(EOSIN) + pinkness * np.array(PINK_EOSIN)
    redness = rng.uniform(0.3, 0.9)
    haematoxylin = (1 - redness) * np.array(HAEMATOXYLIN) + redness * np.array(PURPLE_HAEMATOXYLIN)
    return Stain(
        haematoxylin=_unit(haematoxylin + rng.normal(0, 0.02, 3)),
        eosin=_unit(eosin + rng.normal(0, 0.02, 3)),
        haematoxylin_gain=float(rng.uniform(0.9, 1.12)),
        eosin_gain=float(rng.uniform(0.85, 1.12)),
        glass=_triple(rng.uniform(236, 246) + rng.uniform(-3, 3, 3)),
        focus_px=float(rng.uniform(0.55, 0.95)),
    )


def _unit(vector: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    positive = np.maximum(vector, 0.02)
    return _triple(positive / np.linalg.norm(positive))


def _triple(vector: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = vector.tolist()
    return red, green, blue
