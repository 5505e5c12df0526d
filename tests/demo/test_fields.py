"""Fields are periodic and uniformly distributed, and cells agree with a search for the nearest point."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from slpd_toolkit.demo.fields import cells, rank, smooth, torus


@pytest.mark.parametrize("shape", [(40, 90), (128, 64), (7, 300)])
def test_smooth_noise_has_the_shape_and_the_wavelength_asked_for(shape: tuple[int, int]) -> None:
    field = smooth(np.random.default_rng(0), shape, 12.0)
    assert field.shape == shape
    assert field.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(field, axis=1)).max() < 1  # neighbours are alike at a twelfth of the wavelength


def test_a_torus_continues_over_its_edges() -> None:
    field = torus(np.random.default_rng(1), 64, 10, 20)
    inner = np.abs(np.diff(field, axis=0)).max()
    assert np.abs(field[0] - field[-1]).max() <= 1.2 * inner
    assert np.abs(field[:, 0] - field[:, -1]).max() <= 1.2 * np.abs(np.diff(field, axis=1)).max()
    assert np.abs(np.diff(field, axis=1)).mean() < 0.7 * np.abs(np.diff(field, axis=0)).mean()  # longer along x


def test_ranks_are_shares() -> None:
    field = rank(smooth(np.random.default_rng(2), (400, 400), 9))
    for share in (0.1, 0.3, 0.5, 0.8):
        assert (field > 1 - share).mean() == pytest.approx(share, abs=0.03)


def test_cells_are_those_of_the_nearest_point_on_the_torus() -> None:
    side, across = 60, 5
    found = cells(np.random.default_rng(3), side, across, 0.4)
    assert found.points.shape == (across**2, 2)
    shifts = np.stack(np.meshgrid([-side, 0, side], [-side, 0, side]), axis=-1).reshape(-1, 1, 2)
    images = (found.points + shifts).reshape(-1, 2)
    y, x = np.mgrid[:side, :side]
    distance, index = KDTree(images).query(np.stack([x, y], axis=-1).reshape(-1, 2), k=2)
    np.testing.assert_allclose(found.gap.ravel(), (distance[:, 1] - distance[:, 0]) / 2, atol=1e-4)
    to_nearest = images[index[:, 0]] - np.stack([x, y], axis=-1).reshape(-1, 2)
    clear = distance[:, 1] - distance[:, 0] > 1e-3
    assert np.abs(found.centre.reshape(-1, 2) - to_nearest)[clear].max() < 1  # whole pixels
