"""A fixed test image and its embedding, so that two sites can check that they run the same encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.encoders.encoder import Encoder

SHOWN = 8
"""How many numbers of the golden vector are shown."""


def golden_picture(side_px: int) -> npt.NDArray[np.uint8]:
    """Return the test image, (side_px, side_px, 3) uint8 RGB: ramps, stripes and squares from whole numbers."""
    y, x = np.mgrid[:side_px, :side_px]
    red = (x * 255) // max(side_px - 1, 1)
    green = (y * 5 + x * 3) % 256
    blue = np.where((x // 16 + y // 16) % 2 == 0, 200, 60) + (x * y) % 41
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def shown(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Pick the numbers of a golden vector that are shown, evenly spaced."""
    chosen: npt.NDArray[np.float32] = vector[np.linspace(0, len(vector) - 1, SHOWN).round().astype(int)]
    return chosen


def golden_vector(encoder: Encoder, patch_px: int) -> npt.NDArray[np.float32]:
    """Embed the fixed test image in full precision on the CPU: (embedding_dim,) float32."""
    picture = torch.from_numpy(golden_picture(patch_px)[None])
    vector: npt.NDArray[np.float32] = encoder.embed(picture, "fp32")[0].numpy()
    return vector
