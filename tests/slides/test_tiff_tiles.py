"""Damaged tables of tiles are refused; sound ones, blank tiles that share their data among them, are not."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides import tiff_tiles
from slpd_toolkit.slides.slide import Slide
from tests.slide_factory import glass, tissue, tissue_on_glass, write_repeated_slide, write_slide
from tests.slides.mutants import OFFSETS, SIZES, TILE_HEIGHT, TILE_WIDTH, WIDTH, Tiff, without_tiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 5 x 4 tiles, with a level of 3 x 2."""
    picture = tissue_on_glass(1000, 1200, [(100, 80, 1100, 900)], mpp=1.0)
    folder = tmp_path_factory.mktemp("slide")
    return write_slide(folder / "s.tif", picture, mpp=1.0, downsamples=(2,), compression="jpeg")


def check(path: Path) -> None:
    with Slide(path) as slide:
        slide.check()


def wider(file: Tiff) -> None:
    file.put_long(0, WIDTH, 1200 + 512)


def other_tiles(file: Tiff) -> None:
    for tag in (TILE_WIDTH, TILE_HEIGHT):
        file.put_long(0, tag, 16)


def beyond(file: Tiff) -> None:
    offsets = file.get(0, OFFSETS)
    offsets[3] = len(file.data) - 1
    file.put(0, OFFSETS, offsets)


def overlapping(file: Tiff) -> None:
    offsets = file.get(0, OFFSETS)
    offsets[3] = offsets[2] + 40
    file.put(0, OFFSETS, offsets)


def shared(file: Tiff) -> None:
    for tag in (OFFSETS, SIZES):
        values = file.get(0, tag)
        values[7] = values[6]
        file.put(0, tag, values)


def coarse_level_with_holes(file: Tiff) -> None:
    without_tiles(file, 1, Random(0))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (wider, r"1712 x 1000 px and 600 x 500 px have different aspect ratios"),
        (other_tiles, r"in tiles of 16 x 16 needs 4,725 tiles; the file lists 20 offsets and 20 sizes"),
        (
            beyond,
            r"1 of 20 tiles of a level of 1200 x 1000 px are beyond the end of the file; the first is in row 0",
        ),
        (overlapping, r"1 tile overlaps others in the file"),
        (shared, r"the tile in row 1, column 1 of level 0 shares its data with others and is not blank"),
        (coarse_level_with_holes, r"of 6 tiles of level 1 are missing, and level 0 contains"),
    ],
)
def test_a_damaged_table_is_refused(whole: Path, tmp_path: Path, damage: Callable[[Tiff], None], said: str) -> None:
    check(whole)
    file = Tiff(whole.read_bytes())
    damage(file)
    (tmp_path / "s.tif").write_bytes(file.data)
    with pytest.raises(SlideError, match=said) as caught:
        check(tmp_path / "s.tif")
    assert caught.value.hint


def test_blank_tiles_may_share_their_data(tmp_path: Path) -> None:
    check(write_repeated_slide(tmp_path / "blank.tif", glass(256, 256), 6, mpp=1.0, downsamples=(2,)))
    with pytest.raises(SlideError, match="is not blank"):
        check(write_repeated_slide(tmp_path / "same.tif", tissue(256, 256, mpp=1.0), 6, mpp=1.0, downsamples=(2,)))


def test_tables_hold_what_the_file_says(whole: Path) -> None:
    tables = tiff_tiles.read_tile_tables(whole, "generic-tiff", [(1200, 1000), (600, 500)])
    with tifffile.TiffFile(whole) as file:
        for table, page in zip(tables.values(), file.pages, strict=True):
            assert isinstance(page, tifffile.TiffPage)
            assert tuple(table.offsets.ravel()) == tuple(page.dataoffsets)
            assert (table.width_px, table.height_px) == (256, 256)
            assert not table.absent.any()
    assert not tiff_tiles.shared_tiles(tables)


def test_real_slides_are_sound(data: Path) -> None:
    for path in sorted((data / "slides").iterdir()):
        with Slide(path, 1.0 if path.name.startswith("tcga") else None) as slide:
            slide.check()


@pytest.mark.parametrize("kind", ["thumbnail", "only level"])
def test_what_lacks_in_all_levels_is_absent_on_the_thumbnail(whole: Path, tmp_path: Path, kind: str) -> None:
    file = Tiff(whole.read_bytes())
    if kind == "only level":
        picture = tissue_on_glass(1000, 1200, [(100, 80, 1100, 900)], mpp=1.0)
        path = write_slide(tmp_path / "one.tif", picture, mpp=1.0, downsamples=(), compression="jpeg")
        file = Tiff(path.read_bytes())
    offsets = file.get(0, OFFSETS)
    offsets[6] = 0
    file.put(0, OFFSETS, offsets)
    sizes = file.get(0, SIZES)
    sizes[6] = 0
    file.put(0, SIZES, sizes)
    (tmp_path / "s.tif").write_bytes(file.data)
    with Slide(tmp_path / "s.tif") as slide:
        slide.check()
        thumbnail = slide.thumbnail(8.0)
        _, gaps = slide.read_with_gaps(0, 0, 1000, 1000)
    assert gaps is not None
    assert np.argwhere(gaps).min(axis=0).tolist() == [256, 256]
    assert gaps.sum() == 256 * 256
    if kind == "thumbnail":
        assert thumbnail.absent is None
    else:
        assert thumbnail.absent is not None
        assert thumbnail.absent.sum() == 32 * 32
