"""Changes of stain: against a float64 twin that solves for amounts, and the fixed points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slpd_toolkit.encoders.handcrafted import STAINS
from slpd_toolkit.encoders.stain import draw_stain_change, restain, stain_change, stain_of_view

COLORS = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)


def every_third_color() -> torch.Tensor:
    """Return (86, 86, 86, 3) RGB."""
    levels = torch.arange(0, 256, 3, dtype=torch.uint8)
    return torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij"), dim=-1)


def twin(pixels: np.ndarray, gains: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Change the stain in float64, pixel by pixel: solve for amounts, scale them, compose them."""
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / 256)
    amounts = np.linalg.solve(COLORS.T, density.T).T * gains
    changed: np.ndarray = 256 * np.exp(-(amounts @ colors)) - 1
    return changed.reshape(pixels.shape)


def twin_of_matrix(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Change the stain in float64 by a matrix of optical densities."""
    changed: np.ndarray = 256 * np.exp(np.log((pixels.astype(np.float64) + 1) / 256) @ matrix) - 1
    return changed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_a_float64_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains, colors = rng.uniform(0.7, 1.4, 3), np.abs(COLORS + 0.05 * rng.standard_normal((3, 3)))
    colors /= np.linalg.norm(colors, axis=1, keepdims=True)
    pixels = every_third_color()
    found = restain(pixels, stain_change(gains, 3.7 * colors)).numpy()
    expected = np.clip(twin(pixels.numpy(), gains, colors), 0, 255)
    assert np.abs(found - expected).max() < 0.501


def test_no_change_returns_the_same_bytes_and_white_stays_white() -> None:
    pixels = every_third_color()
    assert torch.equal(restain(pixels, stain_change(np.ones(3), np.array(STAINS))), pixels)
    white = torch.full((2, 2, 3), 255, dtype=torch.uint8)
    for seed in range(5):
        change = draw_stain_change(np.random.default_rng(seed), gain=0.5, hue=0.1)
        assert torch.equal(restain(white, change), white)


def test_more_hematoxylin_darkens_nuclei_and_leaves_eosin() -> None:
    change = stain_change(np.array([2.0, 1.0, 1.0]), np.array(STAINS))
    dense = np.clip(256 * np.exp(-0.5 * COLORS[:2]) - 1, 0, 255).round().astype(np.uint8)
    blue, pink = restain(torch.from_numpy(dense), change).int() - torch.from_numpy(dense).int()
    assert (blue < -20).all()
    assert pink.abs().max() <= 1


def test_two_changes_in_turn_are_one() -> None:
    first, second = (draw_stain_change(np.random.default_rng(seed), gain=0.2, hue=0.03) for seed in (1, 2))
    product = np.array(first.matrix) @ np.array(second.matrix)
    np.testing.assert_allclose(first.then(second).matrix, product)


def test_draws_are_within_their_limits_and_reproducible() -> None:
    drawn = [draw_stain_change(np.random.default_rng(seed), gain=0.3, hue=0.0) for seed in range(200)]
    assert drawn[7] == draw_stain_change(np.random.default_rng(7), gain=0.3, hue=0.0)
    gains = np.array([np.diag(COLORS @ np.array(change.matrix) @ np.linalg.inv(COLORS)) for change in drawn])
    assert np.abs(np.log(gains[:, :2])).max() <= 0.3
    assert np.abs(np.log(gains[:, :2])).max() > 0.29
    np.testing.assert_allclose(gains[:, 2], 1)


def test_a_view_depends_on_its_number_the_slide_and_the_seed_only() -> None:
    drawn = {
        (view, slide, seed): stain_of_view(view, slide, seed) for view in (1, 2) for slide in "ab" for seed in (0, 1)
    }
    assert len(set(drawn.values())) == 8
    assert drawn[2, "b", 1] == stain_of_view(2, "b", 1)
