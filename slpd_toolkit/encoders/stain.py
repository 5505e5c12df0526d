"""Changes of stain in pixels: optical densities are separated into stains, scaled, and composed with other colors.

By the Beer-Lambert law, optical density is linear in the amounts of stain. Amounts are found by inverting the matrix of
stain colors (Ruifrok and Johnston, Anal Quant Cytol Histol 2001;23:291-9). Scaling the amounts and composing them with
slightly different colors (Tellez et al., IEEE Trans Med Imaging 2018;37:2126-36, and Med Image Anal 2019;58:101544) is
one linear map of optical densities, of which white glass is a fixed point.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.encoders.handcrafted import STAINS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_LEVELS = 256
VIEW_GAIN, VIEW_HUE = 0.3, 0.04
"""Strength of the stain views of a cache: about what differs between laboratories."""


@dataclass(frozen=True)
class StainChange:
    """A linear map of optical densities.

    Args:
        matrix: (3, 3): densities of red, green and blue, as a row, are multiplied by it from the right.
    """

    matrix: tuple[tuple[float, float, float], ...]

    def then(self, other: StainChange) -> StainChange:
        """Return the change that applies this one first, then `other`."""
        return _change(np.array(self.matrix) @ np.array(other.matrix))


def stain_change(gains: NDArray[np.float64], colors: NDArray[np.float64]) -> StainChange:
    """Scale the amounts of stain and replace the stains' colors.

    Args:
        gains: (3,) factors of the amounts of hematoxylin, eosin and rest.
        colors: (3, 3) new optical densities of red, green and blue of each stain, one per row, any length.
    """
    return _change(np.linalg.inv(_unit(np.array(STAINS))) @ np.diag(gains) @ _unit(colors))


def draw_stain_change(rng: np.random.Generator, *, gain: float, hue: float) -> StainChange:
    """Draw a random change.

    Args:
        rng: Source of randomness.
        gain: The logarithm of each factor of hematoxylin and eosin is uniform within -gain to gain. The rest, which
            neither stain explains, is not scaled.
        hue: Standard deviation of each color component of hematoxylin and eosin, whose vectors have length 1.
    """
    gains = np.exp(np.append(rng.uniform(-gain, gain, 2), 0.0))
    colors = _unit(np.array(STAINS))
    colors[:2] = np.maximum(colors[:2] + hue * rng.standard_normal((2, 3)), 0.01)
    return stain_change(gains, colors)


def stain_of_view(view: int, slide_id: str, seed: int) -> StainChange:
    """Draw the change of stain of one view of a slide. The result depends only on the arguments.

    Args:
        view: Number of the view, from 1.
        slide_id: The slide.
        seed: Seed of all views.
    """
    digest = hashlib.sha256(slide_id.encode()).digest()
    rng = np.random.default_rng([seed, view, int.from_bytes(digest[:8], "little")])
    return draw_stain_change(rng, gain=VIEW_GAIN, hue=VIEW_HUE)


def restain(pixels: Tensor, change: StainChange) -> Tensor:
    """Change the stain of (..., 3) uint8 RGB, on any device.

    The optical density of value v is -ln((v + 1) / 256), which is 0 for white and finite for black. Densities below 0
    after the change are cut to white.
    """
    level = torch.arange(1, _LEVELS + 1, device=pixels.device, dtype=torch.float32)
    density = -(level / _LEVELS).log()
    changed = density[pixels.int()] @ torch.tensor(change.matrix, device=pixels.device, dtype=torch.float32)
    return (_LEVELS * (-changed).exp() - 1).round().clamp(0, _LEVELS - 1).to(torch.uint8)


def _unit(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = colors / np.linalg.norm(colors, axis=1, keepdims=True)
    return scaled


def _change(matrix: NDArray[np.float64]) -> StainChange:
    first, second, third = (tuple(row) for row in matrix.tolist())
    return StainChange((first, second, third))
