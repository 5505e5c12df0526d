"""Blocks against the thumbnail: tiles from elsewhere are found, sound ones are not suspected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import openslide
import pytest

from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.slides.overview import (
    LOOSE_SHIFT_TH,
    SHIFT_TH,
    contradictions,
    cut_overview,
    missing_pixels,
    required_pixels,
)
from slpd_toolkit.slides.plan import plan_slide, read_block
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.slides.slide import Slide, Thumbnail
from tests.slide_factory import area_mean, glass, smooth_noise, tissue, tissue_on_glass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.slides.overview import Overview

STEP = 8


def thumbnail_of(picture: npt.NDArray[np.uint8]) -> Thumbnail:
    return Thumbnail(area_mean(picture, STEP), STEP, 8.0)


def overview_of(
    picture: npt.NDArray[np.uint8], left: int = 0, top: int = 0, side: int = 1024, shift: int = SHIFT_TH
) -> Overview:
    thumbnail = thumbnail_of(picture)
    must_exist = np.ones(thumbnail.rgb.shape[:2], np.bool_)
    return cut_overview(thumbnail, must_exist, (left, top, side), 256.0, shift)


@pytest.fixture(scope="module")
def picture() -> npt.NDArray[np.uint8]:
    """Tissue of 2048 x 2048 px. Not to be changed."""
    return tissue(2048, 2048, mpp=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("left", "top"), [(0, 0), (512, 768), (100, 3), (1024, 1024)])
@pytest.mark.parametrize("change", ["none", "brighter", "sharper", "shifted", "noisier"])
def test_the_same_picture_is_not_suspected(picture: npt.NDArray[np.uint8], left: int, top: int, change: str) -> None:
    rng = np.random.default_rng(0)
    block = picture[top : top + 1024, left : left + 1024].astype(np.float32)
    if change == "brighter":
        block = block * 0.95 + 10
    elif change == "sharper":
        block += block - cv2.GaussianBlur(block, (0, 0), 2)
    elif change == "shifted":
        block = np.roll(block, (2, -2), axis=(0, 1))
    elif change == "noisier":
        block += rng.normal(0, 10, block.shape)
    found = contradictions(np.clip(block, 0, 255).astype(np.uint8), overview_of(picture, left, top), left, top, 1024)
    assert found is None


def test_swapped_tiles_are_found_where_they_are(picture: npt.NDArray[np.uint8]) -> None:
    block = picture[:1024, :1024].copy()
    block[:256, :256], block[512:768, 256:512] = block[512:768, 256:512].copy(), block[:256, :256].copy()
    found = contradictions(block, overview_of(picture), 0, 0, 1024)
    assert found is not None
    expected = np.zeros((1024, 1024), np.bool_)
    expected[:256, :256] = expected[512:768, 256:512] = True
    assert (found == expected).all()


def test_swapped_tiles_that_share_the_border_of_the_tissue_are_found() -> None:
    """The border dominates the correlation of whole windows, which is 0.9 here."""
    picture = tissue_on_glass(1024, 1024, [(0, 0, 566, 1024)], mpp=1.0)
    block = picture.copy()
    block[:256, 512:768], block[512:768, 512:768] = block[512:768, 512:768].copy(), block[:256, 512:768].copy()
    found = contradictions(block, overview_of(picture), 0, 0, 1024)
    assert found is not None
    expected = np.zeros((1024, 1024), np.bool_)
    expected[:256, 512:768] = expected[512:768, 512:768] = True
    assert (found == expected).all()
    assert contradictions(picture, overview_of(picture), 0, 0, 1024) is None


@pytest.mark.parametrize("strength", [5, 8])
def test_ringing_of_jpeg_on_glass_beside_tissue_is_not_suspected(strength: int) -> None:
    """Slides of the demo were refused: the level of the thumbnail has errors of JPEG next to the tissue."""
    rng = np.random.default_rng(0)
    camera = rng.normal(0, 3, (1024, 1024, 1))
    sharp = tissue_on_glass(1024, 1024, [(248, 248, 520, 520)], mpp=1.0)
    picture = np.clip(sharp + camera, 0, 255).astype(np.uint8)
    thumbnail = thumbnail_of(picture)
    glass_th = thumbnail.rgb.min(axis=2) > 225
    noise = rng.uniform(-strength, strength, glass_th.shape)
    near = cv2.dilate((~glass_th).view(np.uint8), np.ones((15, 15), np.uint8)) > 0
    rgb = thumbnail.rgb + (noise * (near & glass_th))[..., None]
    thumbnail = replace(thumbnail, rgb=np.clip(rgb, 0, 255).astype(np.uint8))
    overview = cut_overview(thumbnail, np.ones(glass_th.shape, np.bool_), (0, 0, 1024), 256.0)
    assert contradictions(picture, overview, 0, 0, 1024) is None


def test_a_tile_of_another_colour_is_found_though_it_is_flat() -> None:
    picture = glass(1024, 1024)
    block = picture.copy()
    block[256:512, :256] = 128
    found = contradictions(block, overview_of(picture), 0, 0, 1024)
    assert found is not None
    assert np.argwhere(found).min(axis=0).tolist() == [256, 0]
    assert found.sum() == 256 * 256


def test_blocks_at_the_border_of_a_slide_and_at_other_scales(picture: npt.NDArray[np.uint8]) -> None:
    picture = picture[:900, :1100]
    padded = np.full((1024, 1024, 3), 255, np.uint8)
    padded[: 900 - 512, : 1100 - 512] = picture[512:, 512:]
    assert contradictions(padded, overview_of(picture, 512, 512), 512, 512, 1024) is None
    small = area_mean(padded, 2)
    assert contradictions(small, overview_of(picture, 512, 512), 512, 512, 1024) is None
    small[:128, :128] = small[128:256, :128].copy()
    assert contradictions(small, overview_of(picture, 512, 512), 512, 512, 1024) is not None


def test_pixels_are_missing_where_there_is_tissue_or_something_on_the_thumbnail() -> None:
    picture = tissue_on_glass(1024, 1024, [(0, 0, 512, 1024)], mpp=1.0)
    thumbnail, mask = thumbnail_of(picture), np.zeros((128, 128), np.bool_)
    mask[:, :64] = True
    gaps = np.zeros((1024, 1024), np.bool_)
    gaps[:256, :256] = gaps[:256, 768:] = True  # in tissue, and far from it
    for absent, strict, tissue_missing, glass_missing in (
        (False, True, True, True),
        (False, False, True, False),  # scanners leave out glass, which is white on the thumbnail
        (True, True, True, False),
        (True, False, False, False),
    ):
        of_file = Thumbnail(thumbnail.rgb, STEP, 8.0, gaps[::STEP, ::STEP] if absent else None)
        overview = cut_overview(of_file, required_pixels(mask, of_file, strict=strict), (0, 0, 1024), 256.0)
        missing = missing_pixels(gaps, overview, 0, 0, 1024)
        assert missing[:256, :256].all() == missing[:256, :256].any() == tissue_missing
        assert missing[:256, 768:].all() == missing[:256, 768:].any() == glass_missing
        assert not missing[256:].any()


@pytest.mark.slow
def test_levels_that_are_stitched_apart_may_be_displaced() -> None:
    field = smooth_noise(2048, 2048, period=40)
    block = np.roll(field, (-20, 17), axis=(0, 1))[:1024, :1024].copy()
    assert contradictions(block, overview_of(field), 0, 0, 1024) is not None
    found = contradictions(block, overview_of(field, shift=LOOSE_SHIFT_TH), 0, 0, 1024)
    assert found is None or not found[256:768, 256:768].any()  # at the border of the slide less can be compared
    block[256:512, 256:512] = field[1024:1280, 1024:1280]
    found = contradictions(block, overview_of(field, shift=LOOSE_SHIFT_TH), 0, 0, 1024)
    assert found is not None
    assert found[256:512, 256:512].all()


@pytest.mark.slow
@pytest.mark.parametrize("mpp", [0.25, 0.3, 0.5])
def test_sound_slides_are_not_suspected_whatever_level_the_thumbnail_is_made_of(data: Path, mpp: float) -> None:
    """The levels of this slide are displaced by fractions of a pixel, because their sizes are rounded up."""
    with Slide(data / "slides" / "her2st-C2.tiff", mpp) as slide:
        lattice = lay_lattice(slide.header, target_mpp=2 * mpp, patch_px=256, region_px=2048, max_upsample=1.6)
        plan = plan_slide(slide, lattice, RegionSelectionConfig(min_tissue=0.05))
        found = [read_block(slide, lattice, plan.corner_l0(b), b, plan.overview(b)) for b in plan.blocks()]
    assert sum(len(block.patches) for block in found) > 100
    assert not any(block.contrary.any() for block in found)


def _averages(picture: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    return area_mean(picture, step)


def _single_pixels(picture: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    return picture[::step, ::step]


def _sharpened(picture: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    soft = area_mean(picture, step).astype(np.float32)
    sharp = np.clip(2 * soft - cv2.GaussianBlur(soft, (0, 0), 1.5), 0, 255)
    return np.asarray(sharp, np.uint8)


def _compressed(picture: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    _, coded = cv2.imencode(".jpg", area_mean(picture, step), [cv2.IMWRITE_JPEG_QUALITY, 30])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("reduce", [_averages, _single_pixels, _sharpened, _compressed])
def test_however_a_file_makes_its_coarse_levels(
    data: Path, reduce: Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.uint8]]
) -> None:
    with openslide.OpenSlide(data / "slides" / "her2st-C2.tiff") as slide:
        picture = np.asarray(slide.read_region((4096, 5632), 0, (2048, 2048)).convert("RGB"))
    for step in (8, 16):
        thumbnail = Thumbnail(reduce(picture, step), step, 8.0)
        overview = cut_overview(thumbnail, np.ones(thumbnail.rgb.shape[:2], np.bool_), (0, 0, 2048), 256.0)
        assert contradictions(picture, overview, 0, 0, 2048) is None
        block = picture.copy()
        block[:256, :256], block[1024:1280, 512:768] = picture[1024:1280, 512:768], picture[:256, :256]
        found = contradictions(block, overview, 0, 0, 2048)
        assert found is not None
        assert found[:256, :256].all()
        assert found[1024:1280, 512:768].all()
        assert found.sum() == 2 * 256 * 256
