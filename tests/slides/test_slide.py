from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides import resolution
from slpd_toolkit.slides import slide as reader
from slpd_toolkit.slides.slide import Slide
from slpd_toolkit.slides.source import SourceInfo, on_white
from tests.slide_factory import (
    area_mean,
    damage_tile,
    glass,
    noise,
    smooth_noise,
    tissue,
    write_repeated_slide,
    write_scn,
    write_slide,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.demo.tiff import RGB

ROUNDING = 0.51  # of one grey level: the mean is exact, and then a byte


def coverage(length: int, parts: int) -> npt.NDArray[np.float64]:
    """How much of each of `parts` equal intervals every one of `length` pixels covers; rows sum to 1."""
    edges = np.arange(parts + 1) * length / parts
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: npt.NDArray[np.float64] = np.maximum(overlap, 0) * parts / length
    return shares


def averaged(image: RGB, side_px: int) -> npt.NDArray[np.float64]:
    """The mean of a square picture over the exact area of each pixel of the result."""
    weights = coverage(len(image), side_px)
    means: npt.NDArray[np.float64] = np.einsum(
        "ya,abc,xb->yxc", weights, image.astype(np.float64), weights, optimize=True
    )
    return means


def cut(image: RGB, left: int, top: int, side: int) -> RGB:
    """A square of a picture; white beyond its borders."""
    white = np.full((side, side, 3), 255, np.uint8)
    height, width = image.shape[:2]
    x0, x1, y0, y1 = max(left, 0), min(left + side, width), max(top, 0), min(top + side, height)
    if x0 < x1 and y0 < y1:
        white[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return white


def apart(got: RGB, expected: npt.NDArray[np.floating] | RGB) -> float:
    return float(np.abs(got.astype(np.float64) - expected).max())


@pytest.fixture(scope="module")
def picture() -> RGB:
    return noise(700, 1000)


@pytest.fixture(scope="module")
def flat(picture: RGB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    """A slide without a pyramid."""
    path = write_slide(tmp_path_factory.mktemp("flat") / "flat.tif", picture, downsamples=())
    with Slide(path) as slide:
        yield slide


@pytest.fixture(scope="module")
def pyramid(picture: RGB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_slide(tmp_path_factory.mktemp("pyramid") / "pyramid.tif", picture, downsamples=(2, 4))
    with Slide(path) as slide:
        yield slide


@pytest.mark.parametrize("scale", [1, 1.37, 1.98, 2, 3.3, 7])
def test_shrinking_is_the_mean_over_exact_areas(flat: Slide, picture: RGB, scale: float) -> None:
    side_px = 60
    side_l0 = round(side_px * scale)
    got = flat.read(123, 45, side_l0, side_px)
    assert got.shape == (side_px, side_px, 3)
    assert got.dtype == np.uint8
    assert apart(got, averaged(cut(picture, 123, 45, side_l0), side_px)) <= ROUNDING


@given(
    x_l0=st.integers(-150, 1100),
    y_l0=st.integers(-150, 800),
    side_px=st.integers(1, 40),
    scale=st.floats(1, 6),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_square_anywhere_is_the_mean_over_exact_areas_on_white(
    flat: Slide, picture: RGB, x_l0: int, y_l0: int, side_px: int, scale: float
) -> None:
    side_l0 = round(side_px * scale)
    expected = averaged(cut(picture, x_l0, y_l0, side_l0), side_px)
    assert apart(flat.read(x_l0, y_l0, side_l0, side_px), expected) <= ROUNDING


@pytest.mark.parametrize(("scale", "level"), [(1, 1), (1.98, 1), (2, 2), (3.3, 2), (4, 4), (5, 4)], ids=str)
def test_the_coarsest_level_that_is_fine_enough_is_averaged(
    pyramid: Slide, picture: RGB, scale: float, level: int
) -> None:
    side_px = 40
    side_l0 = round(side_px * scale)
    got = pyramid.read(80, 40, side_l0, side_px)
    stored = area_mean(picture, level)
    expected = averaged(cut(stored, 80 // level, 40 // level, side_l0 // level), side_px)
    assert apart(got, expected) <= ROUNDING
    assert pyramid.header.downsamples[pyramid.header.best_level(side_l0 / side_px)] == level


@pytest.mark.parametrize(("x_l0", "y_l0"), [(-40, -80), (840, 600), (-400, 0), (1000, 0), (0, 700), (5000, 5000)])
def test_beyond_the_slide_is_white_on_every_level(pyramid: Slide, picture: RGB, x_l0: int, y_l0: int) -> None:
    for downsample in (1, 2, 4):
        side_px = 240 // downsample
        got = pyramid.read(x_l0, y_l0, 240, side_px)
        expected = cut(area_mean(picture, downsample), x_l0 // downsample, y_l0 // downsample, side_px)
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("scale", [0.625, 0.8, 1, 1.25, 2, 3.5, 4])
@pytest.mark.parametrize("name", ["flat", "pyramid"])
def test_blocks_meet_without_a_seam(request: pytest.FixtureRequest, name: str, scale: float) -> None:
    slide: Slide = request.getfixturevalue(name)
    blocks, block_px = 3, 40
    block_l0 = round(block_px * scale)
    for x_l0, y_l0 in [(0, 0), (100, 240), (920, 600)]:
        whole = slide.read(x_l0, y_l0, blocks * block_l0, blocks * block_px)
        for row in range(blocks):
            for column in range(blocks):
                block = slide.read(x_l0 + column * block_l0, y_l0 + row * block_l0, block_l0, block_px)
                part = whole[row * block_px :][:block_px, column * block_px :][:, :block_px]
                assert apart(block, part) <= (1 if scale < 1 else 0), (row, column)


def test_enlarging_is_bicubic_with_the_neighbours_in_sight(flat: Slide, picture: RGB) -> None:
    wide = Image.fromarray(cut(picture, 200 - 20, 300 - 20, 80 + 40)).resize((192, 192), Image.Resampling.BICUBIC)
    assert apart(flat.read(200, 300, 80, 128), np.asarray(wide)[32:-32, 32:-32]) <= 1


def test_enlarging_at_the_border_blends_into_white_only(flat: Slide, picture: RGB) -> None:
    wide = Image.fromarray(cut(picture, -20, -20, 120)).resize((192, 192), Image.Resampling.BICUBIC)
    assert apart(flat.read(0, 0, 80, 128), np.asarray(wide)[32:-32, 32:-32]) <= 1


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slide, RGB]]:
    """Sides that are no multiples of the downsample, so that OpenSlide reports 4.003 for a level of 4."""
    picture = smooth_noise(2001, 3003)
    path = write_slide(tmp_path_factory.mktemp("odd") / "odd.tif", picture, downsamples=(4,))
    with openslide.OpenSlide(path) as file:
        assert 4.001 < file.level_downsamples[1] < 4.01
    with Slide(path) as slide:
        yield slide, picture


@pytest.mark.slow
@pytest.mark.parametrize(("x_l0", "y_l0"), [(0, 0), (400, 200), (2800, 1800), (-400, -200), (2000, 1000)])
def test_a_level_of_4_003_is_a_level_of_4(odd: tuple[Slide, RGB], x_l0: int, y_l0: int) -> None:
    slide, picture = odd
    assert slide.header.downsamples == (1.0, 4.0)
    expected = cut(area_mean(picture, 4), x_l0 // 4, y_l0 // 4, 100)
    got = slide.read(x_l0, y_l0, 400, 100)
    # OpenSlide interpolates what is left of a whole pixel, an eighth at most; a whole pixel would be off by over 40.
    inner = np.s_[:-2, :-2] if x_l0 > 2000 else np.s_[:, :]
    assert apart(got[inner], expected[inner]) <= 12
    shifted = cut(area_mean(picture, 4), x_l0 // 4 + 1, y_l0 // 4, 100)
    assert apart(got[inner], shifted[inner]) > 40


@pytest.mark.slow
def test_a_scale_just_below_a_rounded_level_does_not_shift_the_border(odd: tuple[Slide, RGB]) -> None:
    """Here the margin of the enlargement reaches beyond the slide on a level other than 0."""
    slide, picture = odd
    got = slide.read(0, 0, 1998 * 2, 1000)  # 3.996, read from the level of 4 and enlarged by 1.001
    assert apart(got[:100, :100], area_mean(picture, 4)[:100, :100]) <= 16
    assert apart(got[:100, :100], area_mean(picture, 4)[1:101, 1:101]) > 40


@pytest.mark.parametrize(
    ("mpp", "said"),
    [
        (None, "does not contain its resolution"),
        (264.6, r"264\.6 x 264\.6 um/px; plausible values are 0\.1 to 5"),
        (0.01, r"0\.01 x 0\.01 um/px; plausible"),
    ],
)
def test_an_impossible_resolution_in_a_file_is_an_error_with_the_fix(
    tmp_path: Path, mpp: float | tuple[float, float] | None, said: str
) -> None:
    path = write_slide(tmp_path / "slide.tif", noise(64, 64), mpp=mpp, downsamples=())
    with pytest.raises(SlideError, match=said) as caught:
        Slide(path)
    assert str(path) in caught.value.message
    assert "manifest" in caught.value.hint
    assert "`mpp`" in caught.value.hint
    with Slide(path, 0.4) as slide:
        assert slide.header.mpp_l0 == 0.4


def stated(mpp_x: str | None, mpp_y: str | None) -> SourceInfo:
    return SourceInfo("generic-tiff", ((64, 64),), (1.0,), (mpp_x, mpp_y))


@pytest.mark.parametrize("said", ["nan", "inf", "-inf", "0", "-0.5", "264.6", "1e400"])
def test_a_number_that_is_no_resolution_is_implausible(tmp_path: Path, said: str) -> None:
    with pytest.raises(SlideError, match=r"plausible values are 0\.1 to 5"):
        resolution.choose_mpp(tmp_path, stated(said, said), None)


@pytest.mark.parametrize("said", [(None, None), ("0.5", None), (None, "0.5"), ("half", "half"), ("", "")])
def test_a_resolution_that_is_no_number_or_only_half_there_is_missing(
    tmp_path: Path, said: tuple[str | None, str | None]
) -> None:
    with pytest.raises(SlideError, match="does not contain its resolution"):
        resolution.choose_mpp(tmp_path, stated(*said), None)
    assert resolution.choose_mpp(tmp_path, stated(*said), 0.5) == 0.5


def test_the_file_s_resolution_is_the_mean_of_x_and_y(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.tif", noise(64, 64), mpp=(0.5, 0.504), downsamples=())
    with Slide(path) as slide:
        assert slide.header.mpp_l0 == pytest.approx(0.502, abs=1e-6)
        assert (slide.header.width_l0, slide.header.height_l0) == (64, 64)


def test_transparent_pixels_become_white() -> None:
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    expected = [[200, 100, 0], [255, 255, 255], [244, 224, 204]]
    rgb, gaps = on_white(rgba)
    assert rgb[0].tolist() == expected
    assert gaps is not None
    assert gaps.tolist() == [[False, True, False]]
    assert on_white(rgba[:, [0, 2]])[1] is None


@pytest.mark.parametrize("given", [None, 0.5])
def test_pixels_that_are_not_square_are_refused_whatever_is_given(tmp_path: Path, given: float | None) -> None:
    path = write_slide(tmp_path / "slide.tif", noise(64, 64), mpp=(0.5, 0.506), downsamples=())
    with pytest.raises(SlideError, match=r"pixels of 0\.5 x 0\.506 um; they must be square within 1%") as caught:
        Slide(path, given)
    assert "manifest cannot correct this" in caught.value.hint


@pytest.mark.parametrize("name", ["flat", "pyramid"])
@pytest.mark.parametrize(
    ("mpp", "step"),
    [(0.1, 1), (0.5, 1), (1.0, 2), (1.4, 3), (2.0, 4), (3.0, 6), (4.0, 8)],
)
def test_a_thumbnail_pixel_is_the_mean_of_its_pixels(
    request: pytest.FixtureRequest, picture: RGB, name: str, mpp: float, step: int
) -> None:
    slide: Slide = request.getfixturevalue(name)
    thumbnail = slide.thumbnail(mpp)
    if name == "pyramid":  # a step of whole pixels of a coarse level is taken when it is near enough
        assert abs(thumbnail.step_l0 / step - 1) <= 0.25 + 0.1
        step = thumbnail.step_l0
    assert thumbnail.step_l0 == step
    assert thumbnail.mpp == step * 0.5
    rows, columns = -(-700 // step), -(-1000 // step)
    assert thumbnail.rgb.shape == (rows, columns, 3)
    side = max(rows, columns)
    expected = averaged(cut(picture, 0, 0, side * step), side)[:rows, :columns]
    assert apart(thumbnail.rgb, expected) <= (ROUNDING if name == "flat" else 2 * ROUNDING)


def test_a_thumbnail_that_comes_in_blocks_is_the_same(
    flat: Slide, monkeypatch: pytest.MonkeyPatch, picture: RGB
) -> None:
    whole = flat.thumbnail(4.0).rgb
    monkeypatch.setattr(reader, "_THUMBNAIL_BLOCK_LV", 100)
    assert np.array_equal(flat.thumbnail(4.0).rgb, whole)


@pytest.mark.slow
def test_a_thumbnail_of_an_odd_pyramid_covers_the_last_pixels(odd: tuple[Slide, RGB]) -> None:
    slide, picture = odd
    thumbnail = slide.thumbnail(8.0)
    assert thumbnail.step_l0 == 16
    assert thumbnail.rgb.shape == (126, 188, 3)
    assert apart(thumbnail.rgb[:125, :187], area_mean(picture, 16)) <= 8


@pytest.mark.slow
def test_without_a_pyramid_no_more_than_a_block_is_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_repeated_slide(tmp_path / "big.tif", tissue(256, 256, mpp=0.5), 24, mpp=0.5, downsamples=())
    asked = []
    decode = Slide._decode

    def spy(self: Slide, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int) -> Any:
        asked.append(width_lv * height_lv)
        return decode(self, level, left_lv, top_lv, width_lv, height_lv)

    monkeypatch.setattr(Slide, "_decode", spy)
    with Slide(path) as slide:
        assert slide.header.width_l0 == 6144
        slide.thumbnail(8.0)
    assert max(asked) <= 2048**2
    assert sum(asked) == 6144**2


def test_what_is_no_slide_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.svs"
    text.write_text("not a slide")
    with pytest.raises(SlideError, match=r"notes\.svs is not a slide that OpenSlide reads") as caught:
        Slide(text)
    assert caught.value.hint
    with pytest.raises(SlideError, match=r"absent\.svs cannot be opened \(No such file or directory\)"):
        Slide(tmp_path / "absent.svs")
    with pytest.raises(SlideError, match="is a folder, not a slide file"):
        Slide(tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_slide_is_an_error_at_opening_or_at_reading(tmp_path: Path, kept: float) -> None:
    path = write_slide(tmp_path / "slide.tif", noise(1000, 1000), downsamples=(4,))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    def use() -> None:
        with Slide(path) as slide:
            slide.thumbnail(8.0)
            slide.read(0, 0, 1000, 1000)

    with pytest.raises(SlideError) as caught:
        use()
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_damaged_tile_says_where_and_leaves_other_slides_alone(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.tif", noise(1000, 1000), downsamples=(4,), compression="jpeg")
    damage_tile(path, 5)
    with Slide(path) as slide:
        assert slide.thumbnail(2.0).rgb.shape == (250, 250, 3)
        slide.read(0, 0, 256, 256)
        with pytest.raises(SlideError, match=r"level-0 \(256, 256\) cannot be decoded") as caught:
            slide.read(256, 256, 256, 256)
    assert "damaged" in caught.value.hint


def test_several_threads_read_one_slide(flat: Slide, picture: RGB) -> None:
    corners = [(x, y) for x in range(0, 900, 90) for y in range(0, 600, 60)]
    with ThreadPoolExecutor(8) as pool:
        for (x, y), got in zip(
            corners, pool.map(lambda corner: flat.read(corner[0], corner[1], 100, 100), corners), strict=True
        ):
            assert np.array_equal(got, cut(picture, x, y, 100))


def test_closing_waits_for_the_reads_that_have_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide frees a slide at once: a thread that is still decoding would take the whole process down."""
    slide = Slide(write_slide(tmp_path / "slide.tif", noise(300, 300), downsamples=()))
    decoding, go_on, order = threading.Event(), threading.Event(), list[str]()
    file = slide._source._file  # type: ignore[attr-defined]
    read_region = file.read_region

    def slow(*arguments: object) -> Image.Image:
        decoding.set()
        assert go_on.wait(10)
        order.append("decoded")
        image: Image.Image = read_region(*arguments)
        return image

    def close() -> None:
        slide.close()
        order.append("closed")

    monkeypatch.setattr(file, "read_region", slow)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(slide.read, 0, 0, 300, 300)
        assert decoding.wait(10)
        closing = pool.submit(close)
        with pytest.raises(TimeoutError):
            closing.result(timeout=0.2)
        go_on.set()
        assert reading.result(timeout=10).shape == (300, 300, 3)
        closing.result(timeout=10)
    assert order == ["decoded", "closed"]
    with pytest.raises(SlideError, match="is closed"):
        slide.read(0, 0, 10, 10)


def test_bounds_start_where_the_scanned_area_does(tmp_path: Path, flat: Slide) -> None:
    write_scn(tmp_path / "s.scn", glass(512, 768), (1000, 700), (4800, 3600))
    with Slide(tmp_path / "s.scn", 1.0) as slide:
        assert (slide.header.width_l0, slide.header.height_l0) == (4800, 3600)
        assert slide.header.bounds_corner_l0 == (1000, 700)
    assert flat.header.bounds_corner_l0 == (0, 0)
