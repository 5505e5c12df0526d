from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.opened_slide import SlideHeader
from slpd_toolkit.slides.regions import BLOCK_LV, BLOCK_PX, Lattice, count_blocks, lay_lattice, select_regions
from slpd_toolkit.slides.slide import Slide
from tests.slide_factory import noise, write_slide

if TYPE_CHECKING:
    import numpy.typing as npt


def lattice(mpp_l0: float = 0.5, *, width: int = 9000, height: int = 7000, **changes: Any) -> Lattice:
    """Lay a lattice over a slide that is only described; a pyramid of 4 and 16."""
    downsamples = changes.pop("downsamples", (1.0, 4.0, 16.0))
    fine = SlideHeader(Path("slide.svs"), width, height, mpp_l0, downsamples)
    wanted = {"target_mpp": 0.5, "patch_px": 256, "region_px": 4096, "max_upsample": 1.6} | changes
    return lay_lattice(fine, **wanted)


def test_regions_lie_side_by_side_from_the_slide_s_corner() -> None:
    grid = lattice(0.25, width=20_000, height=8193)
    assert (grid.region_l0, grid.rows, grid.columns, grid.grid) == (8192, 2, 3, 16)
    rows, columns = np.divmod(np.arange(6), 3)
    corners = grid.coords_l0(rows, columns)
    assert corners.dtype == np.int64
    assert corners.tolist() == [[0, 0], [8192, 0], [16_384, 0], [0, 8192], [8192, 8192], [16_384, 8192]]


@pytest.mark.parametrize(("side", "regions"), [(1, 1), (4095, 1), (4096, 1), (4097, 2), (8192, 2)])
def test_the_last_regions_cross_the_border_and_none_lies_beyond(side: int, regions: int) -> None:
    grid = lattice(width=side, height=side)
    assert (grid.rows, grid.columns) == (regions, regions)


@pytest.mark.parametrize("mpp_l0", [0.5, 0.25, 0.2325, 0.2527, 0.4991, 0.3466, 0.121, 0.6911, 0.79])
def test_the_effective_resolution_is_the_target_but_for_a_tenth_of_a_percent(mpp_l0: float) -> None:
    grid = lattice(mpp_l0)
    assert grid.effective_mpp == pytest.approx(0.5, rel=1e-3)
    assert grid.effective_mpp == pytest.approx(grid.region_l0 * mpp_l0 / 4096)
    assert grid.upsampling == pytest.approx(max(1.0, mpp_l0 / 0.5), rel=1e-3)


@given(
    mpp_l0=st.floats(0.1, 5.0),
    target_mpp=st.floats(0.1, 10.0),
    patch_px=st.sampled_from([16, 64, 100, 224, 256, 512, 2048]),
    grid=st.integers(1, 40),
    downsamples=st.sampled_from([(1.0,), (1.0, 2.0, 4.0, 8.0), (1.0, 4.0, 16.0, 32.0), (1.0, 3.7)]),
)
@example(mpp_l0=0.2499, target_mpp=0.9996, patch_px=256, grid=16, downsamples=(1.0, 4.0))
def test_blocks_have_whole_corners_and_no_more_is_rounded_than_half_a_pixel_a_block(
    mpp_l0: float, target_mpp: float, patch_px: int, grid: int, downsamples: tuple[float, ...]
) -> None:
    assume(mpp_l0 / target_mpp <= 1.6)
    laid = lattice(mpp_l0, target_mpp=target_mpp, patch_px=patch_px, region_px=patch_px * grid, downsamples=downsamples)
    across = laid.blocks_across
    assert laid.region_l0 % across == 0
    wanted_l0 = patch_px * grid * target_mpp / mpp_l0
    level = max((d for d in downsamples if d <= wanted_l0 / (patch_px * grid) * 1.001), default=1.0)
    step = level if level == round(level) else 1.0
    assert laid.region_l0 % (across * step) == 0
    assert abs(laid.region_l0 - wanted_l0) <= max(across * step / 2 * (1 + 1e-9), across * step - wanted_l0)


@given(grid=st.integers(1, 64), patch_px=st.integers(16, 3000), shrinkage=st.floats(0.5, 40))
def test_blocks_hold_whole_patches_and_are_as_large_as_the_bounds_allow(
    grid: int, patch_px: int, shrinkage: float
) -> None:
    across = count_blocks(grid, patch_px, shrinkage)
    side = grid // across
    assert across * side == grid

    def within(patches: int) -> bool:
        return patches * patch_px <= BLOCK_PX and patches * patch_px <= BLOCK_LV / shrinkage

    assert side == 1 or within(side)
    assert not any(within(larger) for larger in range(side + 1, grid + 1) if grid % larger == 0)


@pytest.mark.parametrize(("shrinkage", "across"), [(1, 4), (2, 4), (2.1, 8), (4, 8), (8, 16), (16, 16)])
def test_the_usual_region_is_read_in_blocks_of_1024_px_or_2048_level_px(shrinkage: float, across: int) -> None:
    assert count_blocks(16, 256, shrinkage) == across


def test_a_slide_without_a_pyramid_is_read_in_smaller_blocks() -> None:
    assert lattice(0.25, downsamples=(1.0,)).blocks_across == 4
    assert lattice(0.25, target_mpp=1.0, downsamples=(1.0, 4.0)).blocks_across == 4
    assert lattice(0.25, target_mpp=1.0, downsamples=(1.0,)).blocks_across == 8


def test_upsampling_is_allowed_up_to_the_factor_and_refused_beyond() -> None:
    assert lattice(0.8).upsampling == pytest.approx(1.6, rel=1e-3)
    with pytest.raises(
        SlideError, match=r"slide\.svs has 0\.81 um/px; 0\.5 um/px requires upsampling by 1\.62"
    ) as caught:
        lattice(0.81)
    assert "allowed: 1.6." in caught.value.message
    assert "--mpp 0.507" in caught.value.hint
    assert "--max-upsample" in caught.value.hint
    assert lattice(0.81, target_mpp=0.507).upsampling <= 1.6 * 1.001
    assert lattice(1.0, max_upsample=2.0).region_l0 == 2048
    assert lattice(0.4).upsampling == 1.0


def test_a_real_pyramid_gives_a_region_of_whole_level_pixels(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.tif", noise(1001, 1503), mpp=0.249, downsamples=(2, 4))
    with Slide(path) as slide:
        laid = lay_lattice(slide.header, target_mpp=1.0, patch_px=64, region_px=256, max_upsample=1.6)
    assert laid.region_l0 == 1028
    assert laid.region_l0 % 4 == 0
    assert (laid.width_l0, laid.height_l0) == (1503, 1001)


def test_patches_that_touch_the_slide_are_inside() -> None:
    grid = lattice(width=600, height=513, patch_px=256, region_px=1024)
    inside = grid.inside((0, 0), slice(0, 4), slice(0, 4))
    assert inside.tolist() == [[True] * 3 + [False]] * 3 + [[False] * 4]
    assert grid.inside((0, 0), slice(2, 4), slice(0, 2)).tolist() == [[True, True], [False, False]]
    exact = lattice(width=512, height=256, patch_px=256, region_px=1024)
    assert exact.inside((0, 0), slice(0, 4), slice(0, 4)).sum() == 2
    assert grid.inside((1024, 0), slice(0, 4), slice(0, 4)).sum() == 0


def tissue(values: list[list[float]], grid: int) -> npt.NDArray[np.float32]:
    """Regions of one tissue fraction each."""
    return np.array(values, np.float32).repeat(grid, axis=0).repeat(grid, axis=1)


@pytest.mark.parametrize("grid", [1, 4])
def test_regions_are_kept_from_the_threshold_on_row_by_row(grid: int) -> None:
    rows, columns = select_regions(tissue([[0.0, 0.25, 0.24], [0.9, 0.0, 0.26]], grid), grid, 0.25)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2)]
    assert rows.dtype == columns.dtype == np.int64


def test_a_region_counts_by_its_mean_over_all_its_patches() -> None:
    patches = np.zeros((4, 8), np.float32)
    patches[0, :4] = 1.0  # 4 of 16 patches
    patches[:, 4:] = 0.2
    rows, columns = select_regions(patches, 4, 0.22)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


def test_the_best_region_is_kept_however_little_tissue_it_has() -> None:
    rows, columns = select_regions(tissue([[0.0, 0.01], [0.03, 0.02]], 4), 4, 0.5)
    assert (rows.tolist(), columns.tolist()) == ([1], [0])


def test_without_tissue_nothing_is_kept_unless_everything_is() -> None:
    nothing = tissue([[0.0, 0.0], [0.0, 0.0]], 4)
    assert len(select_regions(nothing, 4, 0.001)[0]) == 0
    rows, columns = select_regions(nothing, 4, 0.0)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
