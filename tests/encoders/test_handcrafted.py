"""Each feature on pictures whose stains are known, and what the encoder must not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from slpd_toolkit.encoders.handcrafted import LEVELS, SCALES, STAINS, StainStatistics
from slpd_toolkit.encoders.registry import make_encoder

SCALE = 8  # of all features alike
SHARES = slice(3, 3 + 2 * len(LEVELS))


def stained(haematoxylin: torch.Tensor | float, eosin: torch.Tensor | float, side: int = 32) -> torch.Tensor:
    """Colours of given amounts of the two stains: (1, 3, side, side), 0-1, not rounded to bytes."""
    vectors = torch.tensor(STAINS, dtype=torch.float64)
    vectors /= vectors.norm(dim=1, keepdim=True)
    amounts = torch.stack([torch.as_tensor(value).expand(side, side).double() for value in (haematoxylin, eosin)])
    return torch.exp(-torch.einsum("sc,shw->chw", vectors[:2], amounts))[None].float()


def measure(images: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = StainStatistics()(images)
    return features[0] / SCALE


def by_scale(features: torch.Tensor) -> torch.Tensor:
    """(scales, spread or edge, stain)."""
    return features[SHARES.stop :].reshape(len(SCALES), 2, 3)


def test_flat_stain_is_measured_exactly_and_does_not_vary() -> None:
    features = measure(stained(0.6, 0.3))
    assert features[:3].tolist() == pytest.approx([2 * 0.6, 2 * 0.3, 0], abs=1e-4)
    assert features[SHARES].tolist() == pytest.approx([1, 1, 1, 0, 0, 1, 1, 0, 0, 0], abs=1e-4)
    assert by_scale(features).abs().max() < 1e-3


def test_glass_has_no_stain() -> None:
    assert measure(torch.ones(1, 3, 32, 32)).abs().max() < 1e-5


def test_black_is_finite() -> None:
    assert measure(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_stripes_of_haematoxylin_vary_at_the_scales_that_see_them_and_eosin_does_not() -> None:
    stripes = (torch.arange(32) // 4 % 2).float()  # 4 px wide, amounts 0 and 1
    features = measure(stained(stripes, 0.4))
    spread, edges = by_scale(features)[:, 0, 0], by_scale(features)[:, 1, 0]
    # Means over 1, 2 and 4 px leave the stripes as they are; means over 8 px see the same everywhere.
    assert spread.tolist() == pytest.approx([3 * 0.5, 3 * 0.5, 3 * 0.5, 0], abs=2e-3)
    # Of the differences across, 7 of 31, 7 of 15 and 7 of 7 are 1; those down are 0.
    assert edges.tolist() == pytest.approx([3 * 7 / 31, 3 * 7 / 15, 3 * 1, 0], abs=2e-3)
    assert by_scale(features)[:, :, 1].abs().max() < 1e-3
    assert features[SHARES][:5].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 0], abs=1e-3)


def test_turned_and_mirrored_patches_have_the_same_features() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = StainStatistics()
    for moved in (images.flip(-1), images.flip(-2), images.rot90(1, (-2, -1))):
        torch.testing.assert_close(network(moved), network(images), rtol=1e-4, atol=1e-5)


def test_a_patch_is_measured_alone() -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    network = StainStatistics()
    torch.testing.assert_close(network(images)[2:3], network(images[2:3]))


def test_the_registry_gives_it_pixels_as_they_are() -> None:
    encoder = make_encoder("handcrafted", weights=None, patch_px=32, seed=5, allow_download=False)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    tokens = encoder.embed(pixels, "fp32")
    assert tokens.shape == (2, encoder.embedding_dim) == (2, 37)
    torch.testing.assert_close(tokens, StainStatistics()(pixels.permute(0, 3, 1, 2) / 255))
    again = make_encoder("handcrafted", weights=None, patch_px=32, seed=6, allow_download=False)
    assert again.weights_sha256 == encoder.weights_sha256  # no seed, no weights: one encoder everywhere


def test_levels_are_reached_by_stains_and_not_beyond() -> None:
    darkest = -math.log(1 / 255)
    assert max(LEVELS) < darkest
