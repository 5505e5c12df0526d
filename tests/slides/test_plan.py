from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides import regions
from slpd_toolkit.slides.plan import plan_slide, read_block, require_tissue
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.slides.slide import Slide
from tests.slide_factory import glass, smooth_noise, tissue_on_glass, write_slide

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan


def pixels_of(slide: Slide, found: SlidePlan, block: Block) -> BlockPixels:
    return read_block(slide, found.lattice, found.corner_l0(block), block, found.overview(block))


def opened(path: Path, picture: npt.NDArray[np.uint8], **keywords: Any) -> Slide:
    return Slide(write_slide(path / "slide.tif", picture, mpp=1.0, **keywords))


def plan(
    slide: Slide, min_tissue: float = 0.1, *, region_px: int = 256, patch_px: int = 64, mpp: float = 1.0
) -> SlidePlan:
    lattice = lay_lattice(slide.header, target_mpp=mpp, patch_px=patch_px, region_px=region_px, max_upsample=1.6)
    return plan_slide(slide, lattice, RegionSelectionConfig(min_tissue=min_tissue))


def test_regions_with_tissue_are_kept_in_reading_order(tmp_path: Path) -> None:
    with opened(tmp_path, tissue_on_glass(768, 1280, [(300, 0, 1000, 490)], mpp=1.0)) as slide:
        found = plan(slide, 0.3)
        few = plan(slide, 0.95)
    assert found.coords_l0.tolist() == [[256, 0], [512, 0], [768, 0], [256, 256], [512, 256], [768, 256]]
    assert few.coords_l0.tolist() == [[512, 0]]
    assert found.tissue.shape == (6, 4, 4)
    assert len(found) == 6


def test_tissue_is_that_of_each_patch_at_its_row_and_column(tmp_path: Path) -> None:
    """A strip of tissue over the slide's left, an L-shape apart from every mirrored or turned reading."""
    with opened(tmp_path, tissue_on_glass(512, 768, [(0, 0, 160, 512), (0, 320, 768, 512)], mpp=1.0)) as slide:
        found = plan(slide, 0.0)
    whole = found.tissue.reshape(2, 3, 4, 4).swapaxes(1, 2).reshape(8, 12)
    expected = np.zeros((512, 768), np.float32)
    expected[:, :160] = expected[320:] = 1
    expected = expected.reshape(8, 64, 12, 64).mean(axis=(1, 3))
    inner = np.abs(whole - expected)
    assert inner.mean() < 0.08
    assert whole[0, 0] > 0.9
    assert whole[7, 11] > 0.9
    assert whole[0, 11] == 0


def test_beyond_the_slide_there_is_no_tissue(tmp_path: Path) -> None:
    with opened(tmp_path, tissue_on_glass(300, 700, [(0, 0, 700, 300)], mpp=1.0)) as slide:
        found = plan(slide, 0.0, region_px=512)
    assert found.coords_l0.tolist() == [[0, 0], [512, 0]]
    assert (found.tissue[:, 5:] == 0).all()
    assert (found.tissue[1, :, 3:] == 0).all()
    assert (found.tissue[0, :4] > 0.9).all()
    assert found.tissue[0, 4].mean() == pytest.approx(44 / 64, abs=0.1)


def test_a_slide_without_tissue_has_no_regions(tmp_path: Path) -> None:
    with opened(tmp_path, glass(400, 400)) as slide:
        empty = plan(slide)
        everything = plan(slide, 0.0)
    assert empty.coords_l0.shape == (0, 2)
    assert empty.tissue.shape == (0, 4, 4)
    assert list(empty.blocks()) == []
    with pytest.raises(SlideError, match="no tissue found in 400 x 400 px") as caught:
        require_tissue(empty)
    assert "--min-tissue 0" in caught.value.hint
    assert len(everything) == 4
    require_tissue(everything)


@pytest.mark.parametrize(
    ("mpp", "patch_px", "region_px"), [(1.0, 64, 256), (1.3, 32, 256), (2.0, 64, 128), (0.8, 64, 256)]
)
@pytest.mark.parametrize("bound", [32, 64, 128, 1024])
def test_the_blocks_of_a_region_are_its_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpp: float, patch_px: int, region_px: int, bound: int
) -> None:
    """However many blocks a region is read in, they are the region read at once, cut into patches."""
    monkeypatch.setattr(regions, "BLOCK_PX", bound)
    grid = region_px // patch_px
    with opened(tmp_path, smooth_noise(500, 610), downsamples=()) as slide:
        found = plan(slide, 0.0, region_px=region_px, patch_px=patch_px, mpp=mpp)
        pieces = np.full((len(found), grid, grid, patch_px, patch_px, 3), 255, np.uint8)
        seen = np.zeros((len(found), grid, grid), int)
        for block in found.blocks():
            side = (block.rows_rc.stop - block.rows_rc.start) * patch_px
            assert side <= bound or block.rows_rc.stop - block.rows_rc.start == 1
            pixels = pixels_of(slide, found, block)
            patches, inside = pixels.patches, pixels.inside
            assert len(patches) == inside.sum()
            rows, columns = np.nonzero(inside)
            pieces[block.region, rows + block.rows_rc.start, columns + block.columns_rc.start] = patches
            seen[block.region, block.rows_rc, block.columns_rc] += 1
        assert (seen == 1).all()
        for region, (x, y) in enumerate(found.coords_l0.tolist()):
            whole = slide.read(x, y, found.lattice.region_l0, region_px).astype(int)
            expected = whole.reshape(grid, patch_px, grid, patch_px, 3).swapaxes(1, 2)
            assert np.abs(pieces[region] - expected).max() <= 1


def test_blocks_that_are_pure_padding_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "BLOCK_PX", 64)
    with opened(tmp_path, tissue_on_glass(70, 130, [(0, 0, 130, 70)], mpp=1.0), downsamples=()) as slide:
        found = plan(slide, 0.0)
        asked, read = list[tuple[int, int]](), slide.read_with_gaps

        def spy(x_l0: int, y_l0: int, side_l0: int, side_px: int) -> Any:
            asked.append((x_l0, y_l0))
            return read(x_l0, y_l0, side_l0, side_px)

        monkeypatch.setattr(slide, "read_with_gaps", spy)
        counts = [len(pixels_of(slide, found, block).patches) for block in found.blocks()]
    assert asked == [(x, y) for y in (0, 64) for x in (0, 64, 128)]
    assert counts == [1, 1, 1, 0] * 2 + [0] * 8


def test_a_slide_without_tissue_and_with_a_dark_background_looks_like_fluorescence(tmp_path: Path) -> None:
    dark = 255 - glass(600, 600)
    with opened(tmp_path, dark) as slide, pytest.raises(SlideError, match="as in fluorescence slides") as caught:
        require_tissue(plan(slide))
    assert "brightfield" in caught.value.hint
