from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.foreign.lattice import PatchLattice, find_lattice, neighbour_gaps
from tests.foreign.factory import lattice_of, shuffled


@pytest.mark.parametrize("apart", [(1, 0), (0, 1), (1, 1)])
def test_patches_far_apart_take_no_memory(apart: tuple[int, int]) -> None:
    """A map of the cells between these two would have terabytes, on one line too."""
    lattice = find_lattice(np.array([(0, 0), apart]) * 2.0**52, (512.0,), 512.0)
    assert (lattice.step_l0, lattice.x_l0, lattice.y_l0, lattice.stride) == (512, 0, 0, 1)


def test_a_plain_lattice_is_found_exactly() -> None:
    (coords,) = shuffled(lattice_of(30, 20, 512))
    lattice = find_lattice(coords, (512.0,), 512.0)
    assert lattice == PatchLattice(512.0, 0.0, 0.0, 1)
    cells, distance = lattice.cells(coords)
    assert (cells * 512 == coords).all()
    assert (distance == 0).all()


@pytest.mark.parametrize(
    ("origin", "expected"), [((100, 200), (100, 200)), ((1000, 511), (-24, -1)), ((256, 0), (-256, 0))]
)
def test_the_origin_lies_within_half_a_step_of_the_slide_s(
    origin: tuple[float, float], expected: tuple[float, float]
) -> None:
    lattice = find_lattice(lattice_of(8, 8, 512, origin), (512.0,), 512.0)
    assert (lattice.x_l0, lattice.y_l0) == expected


def test_the_lattice_of_most_patches_wins_and_the_others_move_as_one() -> None:
    big, small = lattice_of(20, 20, 256, (37, 11)), lattice_of(5, 5, 256, (8000 + 130, 9000 + 70))
    coords = np.concatenate([small, big])
    lattice = find_lattice(coords, (256.0,), 256.0)
    cells, distance = lattice.cells(coords)
    assert (lattice.x_l0, lattice.y_l0) == (37, 11)
    assert (distance[25:] == 0).all()
    assert len(set(distance[:25])) == 1  # a piece of tissue keeps its form
    assert 0 < distance[0] <= 128
    assert (cells[:25] - cells[0] == lattice_of(5, 5, 1)).all()


def test_jitter_is_snapped_away() -> None:
    rng = np.random.default_rng(0)
    exact = lattice_of(40, 30, 256.0)
    coords = exact + rng.uniform(-12, 12, exact.shape)
    cells, distance = find_lattice(coords, (256.0,), 256.0).cells(coords)
    assert (cells * 256.0 == exact).all()
    assert 0 < distance.max() < 20


def test_a_drift_is_followed() -> None:
    """STAMP cuts tiles from larger ones of whole px: the pitch is a little more than the side, and adds up."""
    pitch = 257.5
    x = np.arange(300) * pitch
    coords = np.stack([np.tile(x, 3), np.repeat(np.arange(3) * pitch, 300)], axis=1)
    lattice = find_lattice(coords, (256.0,), 256.0)
    cells, distance = lattice.cells(coords)
    assert (cells[:, 0] == np.tile(np.arange(300), 3)).all()
    assert distance.max() < 8
    assert lattice.step_l0 == pytest.approx(pitch, rel=1e-4)


@pytest.mark.parametrize(("step", "stride"), [(128, 2), (64, 4), (256, 1)])
def test_overlap_of_a_whole_part_is_a_stride(step: float, stride: int) -> None:
    lattice = find_lattice(lattice_of(20, 20, step), (step,), 256.0)
    assert (lattice.step_l0, lattice.stride) == (step, stride)


def test_overlap_of_no_whole_part_is_refused() -> None:
    with pytest.raises(SlideError, match=r"patches of 256 px are 192 px apart .* 1.33 steps, allowed: a whole number"):
        find_lattice(lattice_of(20, 20, 192), (192.0,), 256.0)


def test_the_reading_that_the_coordinates_bear_out_is_taken() -> None:
    coords = lattice_of(20, 20, 256)
    assert find_lattice(coords, (384.0, 256.0), 512.0) == PatchLattice(256.0, 0.0, 0.0, 2)


@pytest.mark.parametrize("unit", [0.2526, 2.0, 4.0, 1 / 0.6])
def test_coordinates_in_another_unit_are_refused(unit: float) -> None:
    with pytest.raises(SlideError, match=r"neighboring patches are .* apart, but 256") as caught:
        find_lattice(lattice_of(20, 20, 256 * unit), (256.0,), 256.0)
    assert "--mpp" in caught.value.hint


def test_few_scattered_patches_are_no_reason_to_refuse() -> None:
    coords = np.array([[0.0, 0.0], [1024.0, 0.0], [0.0, 2048.0]])
    assert find_lattice(coords, (256.0,), 256.0) == PatchLattice(256.0, 0.0, 0.0, 1)
    assert find_lattice(np.array([[700.0, 300.0]]), (256.0,), 256.0) == PatchLattice(256.0, -68.0, 44.0, 1)


def test_gaps_are_those_of_one_line() -> None:
    coords = np.array([[0, 0], [300, 0], [100, 0], [50, 100], [80, 100], [0, 0]], float)
    assert sorted(neighbour_gaps(coords, 0, 100.0)) == [30, 100, 200]
    assert sorted(neighbour_gaps(coords, 1, 100.0)) == []
