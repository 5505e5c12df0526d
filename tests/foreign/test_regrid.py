from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.foreign.features import SlideFeatures
from slpd_toolkit.foreign.regrid import Placement, place
from slpd_toolkit.foreign.rows import ArrayRows
from tests.foreign.factory import features_of, lattice_of, shuffled

if TYPE_CHECKING:
    import numpy.typing as npt


def slide(coords: npt.NDArray[Any], **changes: Any) -> SlideFeatures:
    """Patches of 256 px at level 0, whose only feature is their row number."""
    values: dict[str, Any] = {
        "slide_id": "s",
        "tool": "trident",
        "files": (Path("s.h5"),),
        "features": ArrayRows(np.arange(len(coords), dtype=np.float32)[:, None]),
        "coords_l0": coords.astype(np.float64),
        "patch_l0": 256.0,
        "steps_l0": (256.0,),
        "patch_px": 256,
        "mpp_l0": 0.5,
        "target_mpp": 0.5,
        "encoder": "e",
    }
    return SlideFeatures(**(values | changes))


def put(placement: Placement, coords: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The coordinates that each cell's patch had, (R, grid, grid, 2); NaN where there is none."""
    out = np.full((len(placement), placement.grid, placement.grid, 2), np.nan)
    region = np.repeat(np.arange(len(placement)), np.diff(placement.starts))
    out[region, placement.rows, placement.columns] = coords[placement.source]
    return out


def cell_corners(placement: Placement) -> npt.NDArray[Any]:
    within = lattice_of(placement.grid, placement.grid, placement.region_l0 / placement.grid)
    return (placement.coords_l0[:, None] + within).reshape(len(placement), placement.grid, placement.grid, 2)


@pytest.mark.parametrize("far", [1e30, 2.0**63, 2.0**31])
def test_coordinates_that_no_slide_has_are_refused(far: float) -> None:
    """Cells are counted in 64 bits: farther ones would come out anywhere."""
    with pytest.raises(SlideError, match=r"1 of 2 coordinates is outside the slide: .*allowed: 0 to 2,147,483,648"):
        place(slide(np.array([[0, 0], [far, 0]])), grid=4, tolerance=0.5, min_tissue=0)


def test_patches_go_where_they_lie_whatever_their_order() -> None:
    (coords,) = shuffled(lattice_of(10, 7, 256))
    placement = place(slide(coords), grid=4, tolerance=0.5, min_tissue=0)
    assert placement.coords_l0.tolist() == [[0, 0], [1024, 0], [2048, 0], [0, 1024], [1024, 1024], [2048, 1024]]
    assert placement.region_l0 == 1024
    found = put(placement, coords)
    present = placement.present
    assert (found[present] == cell_corners(placement)[present]).all()
    assert np.isnan(found[~present]).all()
    assert present.sum() == placement.report.placed == 70
    assert placement.report.left_out == 0


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_patch_is_lost_or_moved_farther_than_said(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    pieces = [
        lattice_of(int(rng.integers(3, 9)), int(rng.integers(3, 9)), 256, tuple(rng.integers(0, 9000, 2)))
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    coords = np.concatenate(pieces)
    coords = coords[rng.random(len(coords)) < 0.8]
    if not len(coords):
        return
    grid, tolerance = data.draw(st.sampled_from([2, 4, 16])), data.draw(st.sampled_from([0.1, 0.5]))
    min_tissue = data.draw(st.sampled_from([0.0, 0.3]))
    placement = place(slide(coords), grid=grid, tolerance=tolerance, min_tissue=min_tissue)
    report = placement.report
    assert report.patches == len(coords)
    assert report.left_out == report.sparse + report.collisions + report.off_lattice
    assert len(set(placement.source.tolist())) == len(placement.source) == report.placed == placement.present.sum()
    moved = np.abs(put(placement, coords) - cell_corners(placement))[placement.present].max(axis=1)
    assert (moved <= tolerance * 256 + 0.51).all()  # corners are whole px
    assert moved.max() == pytest.approx(report.shift_max_l0, abs=0.51)
    shares = placement.present.mean(axis=(1, 2))
    assert ((shares >= min_tissue) | (shares == shares.max())).all()
    again = place(slide(coords[::-1]), grid=grid, tolerance=tolerance, min_tissue=min_tissue)
    assert (again.coords_l0 == placement.coords_l0).all()
    assert np.array_equal(put(again, coords[::-1]), put(placement, coords), equal_nan=True)


def test_the_nearer_of_two_patches_gets_the_cell() -> None:
    coords = np.concatenate([lattice_of(4, 4, 256), np.array([[530.0, 250.0], [520.0, 260.0]])])
    for order in (slice(None), slice(None, None, -1)):
        placement = place(slide(coords[order]), grid=4, tolerance=0.5, min_tissue=0)
        assert placement.report.collisions == 2
        assert (put(placement, coords[order])[0] == lattice_of(4, 4, 256).reshape(4, 4, 2)).all()


def test_what_is_too_far_from_any_cell_is_left_out() -> None:
    coords = np.concatenate([lattice_of(8, 8, 256), lattice_of(2, 2, 256, (4096 + 60, 0))])
    kept = place(slide(coords), grid=4, tolerance=0.25, min_tissue=0).report
    assert (kept.placed, kept.off_lattice, kept.shift_max_l0, kept.shift_median_l0) == (68, 0, 60, 0)
    strict = place(slide(coords), grid=4, tolerance=0.2, min_tissue=0).report
    assert (strict.placed, strict.off_lattice, strict.shift_max_l0) == (64, 4, 0)


def test_regions_with_few_patches_are_dropped_but_for_the_fullest() -> None:
    coords = np.concatenate([lattice_of(4, 4, 256), lattice_of(1, 1, 256, (2048, 0)), lattice_of(2, 1, 256, (4096, 0))])
    report = place(slide(coords), grid=4, tolerance=0.5, min_tissue=0.1).report
    assert (report.placed, report.sparse) == (18, 1)
    alone = place(slide(coords[16:]), grid=4, tolerance=0.5, min_tissue=1.0)
    assert alone.coords_l0.tolist() == [[4096, 0]]


@pytest.mark.parametrize("shift", [0, 128])
def test_of_overlapping_patches_those_side_by_side_are_taken(shift: int) -> None:
    coords = lattice_of(16, 16, 128)
    coords = coords[((coords // 128 % 2 == shift // 128).all(axis=1)) | (np.arange(256) % 5 > 0)]
    placement = place(slide(coords, steps_l0=(128.0,)), grid=4, tolerance=0.5, min_tissue=0)
    assert placement.coords_l0[0].tolist() == [shift, shift]
    assert placement.region_l0 == 1024
    assert placement.report.between == len(coords) - 64
    assert (put(placement, coords)[placement.present] == cell_corners(placement)[placement.present]).all()


def test_augmented_copies_are_left_out() -> None:
    coords = np.repeat(lattice_of(4, 4, 256), 2, axis=0)
    usable = np.arange(32) % 2 == 1
    placement = place(slide(coords, usable=usable), grid=4, tolerance=0.5, min_tissue=0)
    assert sorted(placement.source.tolist()) == list(range(1, 32, 2))
    assert asdict(placement.report) | {"placed": 16, "augmented": 16, "collisions": 0} == asdict(placement.report)
    with pytest.raises(SlideError, match="all 32 rows are augmented"):
        place(slide(coords, usable=np.zeros(32, bool)), grid=4, tolerance=0.5, min_tissue=0)


def test_whole_regions_stay_as_they_are() -> None:
    """They may lie anywhere, and are not torn apart to fit a common lattice."""
    corners = np.array([[5000, 77], [0, 13], [1100, 77]], float)
    regions = slide(corners, grid=4, features=ArrayRows(features_of(48)))
    placement = place(regions, grid=4, tolerance=0.5, min_tissue=0.5)
    assert placement.coords_l0.tolist() == [[0, 13], [1100, 77], [5000, 77]]
    assert placement.source.tolist() == [*range(16, 48), *range(16)]
    assert placement.rows[:6].tolist() == [0, 0, 0, 0, 1, 1]
    assert placement.columns[:6].tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("bad", [[-256, 0], [2560, 0], [0, 2560]])
def test_coordinates_outside_the_slide_are_refused(bad: list[int]) -> None:
    coords = np.concatenate([lattice_of(10, 10, 256), np.array([bad])])
    with pytest.raises(SlideError, match="1 of 101 coordinates is outside the slide") as caught:
        place(slide(coords, size_l0=(2560, 2560)), grid=4, tolerance=0.5, min_tissue=0)
    assert "2,560 x 2,560 px" in str(caught.value)
