from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from slpd_toolkit.encoders.resampling import resize, weights
from tests.slide_factory import tissue_on_glass

KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pictures(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Tissue, noise, and black and white stripes, which make bicubic weights overshoot."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stripes = np.broadcast_to(255 * (np.arange(side) // 3 % 2)[:, None], (side, side)).astype(np.uint8)
    tissue = tissue_on_glass(side, side, [(side // 6, side // 6, side, side)], mpp=0.5, seed=1)
    return np.stack([tissue, noise, np.stack([stripes, stripes.T, 255 - stripes], axis=-1)])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "wanted"), [(256, 224), (512, 448), (512, 224), (384, 256), (224, 384), (97, 224)])
def test_every_byte_equals_pillow_s(interpolation: str, side: int, wanted: int) -> None:
    images = pictures(side)
    resized = resize(torch.from_numpy(images).permute(0, 3, 1, 2), wanted, interpolation)  # type: ignore[arg-type]
    for image, ours in zip(images, resized.permute(0, 2, 3, 1).numpy(), strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((wanted, wanted), KERNELS[interpolation]))
        assert np.array_equal(ours, theirs)


def test_more_images_than_are_resized_at_once() -> None:
    images = torch.randint(0, 256, (33, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(images, 12, "bilinear")[32:], resize(images[32:], 12, "bilinear"))


def test_weights_are_22_bit_fractions_that_sum_to_one() -> None:
    rows = weights(256, 224, "bicubic")
    assert rows.shape == (224, 256)
    assert torch.equal(rows * 2**22, (rows * 2**22).round())
    assert torch.allclose(rows.sum(1), torch.ones(224, dtype=torch.float64), atol=1e-5)
