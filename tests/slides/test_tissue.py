"""Tissue masks on labelled and unlabelled real slides and on drawn ones; fractions against an overlap oracle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slpd_toolkit.slides import tissue
from slpd_toolkit.slides.tissue import tissue_fraction, tissue_mask

Array = npt.NDArray[Any]
MPP = 8.0
GLASS = (226, 222, 230)
EOSIN = (205, 140, 185)
HAEMATOXYLIN = (58, 61, 115)  # the darkest 1 % of a real section at 8 um/px


def thumbnail(data: Path, name: str, mpp: float = MPP, mpp_l0: float | None = None) -> tuple[Array, float]:
    """Read a slide's whole area from its best pyramid level, area-averaged; also level-0 um/px."""
    with openslide.OpenSlide(data / "slides" / name) as slide:
        mpp_l0 = mpp_l0 or float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
        level = slide.get_best_level_for_downsample(0.5 * mpp / mpp_l0)
        image = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))
        size = (round(slide.dimensions[0] * mpp_l0 / mpp), round(slide.dimensions[1] * mpp_l0 / mpp))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), mpp_l0


def spot_scores(data: Path, mask: Array, slide: str, mpp: float, mpp_l0: float) -> tuple[float, float]:
    """Recall and specificity of discs 100 um wide, which are tissue when over half of them is in the mask."""
    spots = pd.read_csv(data / "spots" / f"{slide}.csv")
    offsets = np.stack(np.meshgrid(*[np.arange(-50.0, 51.0, 2.0)] * 2), axis=-1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(axis=1) <= 50**2] / mpp
    centres = spots[["x_l0", "y_l0"]].to_numpy() * mpp_l0 / mpp
    x, y = np.moveaxis(np.floor(centres[:, None] + offsets).astype(int), -1, 0)
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    share = (inside & mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]).mean(axis=1)
    truth = spots["in_tissue"].to_numpy() == 1
    return float((share[truth] > 0.5).mean()), float((share[~truth] <= 0.5).mean())


def jpeg(image: Array, quality: int = 80) -> Array:
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.uint8)


def gamma(exponent: float) -> Callable[[Array], Array]:
    return lambda image: np.round(255 * (image / 255) ** exponent).astype(np.uint8)


PERTURBATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda image: image,
    "low contrast": gamma(0.6),
    "high contrast": gamma(1.6),
    "dark": lambda image: (image * 0.7).astype(np.uint8),
    "overexposed": lambda image: np.minimum(image * 1.2, 255).astype(np.uint8),
    "bluish": lambda image: np.clip(image * (0.9, 1.0, 1.1), 0, 255).astype(np.uint8),
    "JPEG": lambda image: jpeg(image, 30),
    "unfocused": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "noisy": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8),
}


@pytest.mark.slow
@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("slide", ["her2st-B4", "her2st-C2"])
def test_finds_the_spots_that_the_authors_called_tissue(data: Path, slide: str, perturbation: str) -> None:
    image, mpp_l0 = thumbnail(data, f"{slide}.tiff")
    mask = tissue_mask(PERTURBATIONS[perturbation](image), MPP)
    recall, specificity = spot_scores(data, mask, slide, MPP, mpp_l0)
    assert recall >= 0.995
    assert specificity >= 0.97
    assert not mask[780:, 700:].any(), "the scale bar in the corner"


@pytest.mark.slow
@pytest.mark.parametrize("mpp", [6.0, 7.3, 10.0])
def test_resolution_hardly_matters(data: Path, mpp: float) -> None:
    image, mpp_l0 = thumbnail(data, "her2st-B4.tiff", mpp)
    recall, specificity = spot_scores(data, tissue_mask(image, mpp), "her2st-B4", mpp, mpp_l0)
    assert recall >= 0.995
    assert specificity >= 0.97


@pytest.mark.slow
def test_finds_the_fragments_of_a_nearly_empty_slide_and_nothing_else(data: Path) -> None:
    mask = tissue_mask(thumbnail(data, "luna-1065626.svs")[0], MPP)
    for x, y in [(185, 117), (311, 402), (337, 411), (276, 430), (465, 442), (512, 459)]:
        assert mask[y - 5 : y + 6, x - 5 : x + 6].mean() > 0.9, (x, y)
    for left, top, right, bottom in [(150, 90, 205, 155), (255, 380, 355, 455), (430, 420, 545, 490)]:
        mask[top:bottom, left:right] = False
    assert not mask.any()


def test_a_frozen_section_stops_at_the_stitched_white_and_at_its_large_hole(data: Path) -> None:
    image, _ = thumbnail(data, "tcga-cr-7395-01a-01-ts1.svs", mpp_l0=1.0)
    mask = tissue_mask(image, MPP)
    assert 0.63 < mask.mean() < 0.69  # outlined by eye: about 0.64
    assert not mask[:60, :340].any()
    assert not mask[330:, :45].any()
    assert not mask[255:268, 345:358].any(), "the hole of 0.25 x 0.5 mm"


@pytest.mark.parametrize("rows", [slice(170, 210), slice(100, 240), slice(280, 320)])
def test_a_frame_inside_tissue_is_all_tissue(data: Path, rows: slice) -> None:
    image, _ = thumbnail(data, "tcga-cr-7395-01a-01-ts1.svs", mpp_l0=1.0)
    assert tissue_mask(image[rows, 130:250], MPP).mean() > 0.995


def test_skin_that_nearly_fills_a_small_frame(data: Path) -> None:
    mask = tissue_mask(thumbnail(data, "cmu-1-small-region.svs")[0], MPP)
    assert mask[60:, 58:78].mean() > 0.99
    assert not mask[90:, :25].any()
    assert not mask[:, 128:].any()


# Drawn slides -------------------------------------------------------------------------------------------------------


def glass(height: int = 400, width: int = 480, colour: tuple[int, int, int] = GLASS) -> Array:
    """Glass with scanner noise, uneven light of 8 % and a pink halo."""
    y, x = np.mgrid[:height, :width]
    light = 1 - 0.08 * x / width
    halo = 1 - np.exp(-((x - width / 2) ** 2 + (y - height / 2) ** 2) / 120**2)[..., None] * (0.0, 0.12, 0.05)
    noise = np.random.default_rng(0).normal(0, 2, (height, width, 3))
    return np.asarray(np.clip(colour * light[..., None] * halo + noise, 0, 255).astype(np.uint8))


def stain(image: Array, where: Array, colour: tuple[int, int, int] = EOSIN, texture: float = 0.4) -> Array:
    """Lay stain on an image: optical densities add, and vary from cell to cell (about 16 um) by a share `texture`."""
    cells = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, where.shape), (0, 0), 2.0)
    amount = cv2.GaussianBlur(where.astype(np.float64), (0, 0), 0.7) * np.maximum(1 + texture * cells / cells.std(), 0)
    stained: Array = np.round(image * np.exp(amount[..., None] * np.log(np.array(colour) / 255))).astype(np.uint8)
    return stained


def disc(image: Array, x: float, y: float, diameter_um: float) -> Array:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= (diameter_um / 2 / MPP) ** 2)


def stroke(image: Array, width_um: float) -> Array:
    points = np.array([(40, 60), (200, 30), (330, 90), (440, 50)], np.int32)
    return (
        cv2.polylines(
            np.zeros(image.shape[:2], np.uint8), [points], isClosed=False, color=1, thickness=round(width_um / MPP)
        )
        > 0
    )


@pytest.mark.parametrize("colour", [(255, 255, 255), (240, 240, 240), (128, 128, 128), (220, 150, 190), (0, 0, 0)])
@pytest.mark.parametrize("shape", [(300, 200), (1, 1), (1, 300), (3, 2)])
def test_a_uniform_image_has_no_tissue(colour: tuple[int, int, int], shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), colour, np.uint8)
    mask = tissue_mask(image, MPP)
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    assert not mask.any()


@pytest.mark.parametrize("quality", [None, 30])
def test_glass_with_noise_uneven_light_and_a_halo_has_no_tissue(quality: int | None) -> None:
    image = glass() if quality is None else jpeg(glass(), quality)
    assert not tissue_mask(image, MPP).any()


@pytest.mark.parametrize("colour", [EOSIN, HAEMATOXYLIN, (230, 190, 215)])
def test_a_frame_full_of_tissue_is_all_tissue(colour: tuple[int, int, int]) -> None:
    image = stain(glass(), np.ones((400, 480)), colour)
    assert tissue_mask(image, MPP).all()


@pytest.mark.parametrize("level", [250, 225, 190])
@pytest.mark.parametrize("quality", [None, 75, 40])
def test_the_edge_between_white_padding_and_glass_is_no_tissue(level: int, quality: int | None) -> None:
    image = glass(colour=(level, level - 4, level))
    core = disc(image, 350, 300, 500)
    image = stain(image, core)
    image[:180, :170], image[:, 440:], image[392:] = 255, 255, 255
    mask = tissue_mask(image if quality is None else jpeg(image, quality), MPP)
    assert not mask[~disc(image, 350, 300, 600)].any()
    assert mask[core].mean() > 0.95


@pytest.mark.parametrize("level", [235, 200])
@pytest.mark.parametrize("quality", [None, 90, 75, 50])
def test_the_lanes_of_a_patchwork_of_scanned_fields_are_no_tissue(level: int, quality: int | None) -> None:
    fine: Array = np.kron(glass(200, 240, (level, level - 4, level)), np.ones((3, 3, 1), np.uint8))
    for left, top in [(20, 31), (223, 31), (430, 31), (20, 322), (223, 322), (430, 322)]:
        fine[top : top + 230, left : left + 143] = 255  # lanes of 160 um and wider; edges lie inside pixels
    fine[:, -11:] = 255  # a margin of 29 um
    image = cv2.resize(fine, (240, 200), interpolation=cv2.INTER_AREA).astype(np.uint8)
    assert not tissue_mask(image if quality is None else jpeg(image, quality), MPP).any()


def test_tissue_reaches_up_to_padding_and_to_the_frame() -> None:
    image = stain(glass(), np.ones((400, 480)))
    image[:, 300:] = 255
    mask = tissue_mask(image, MPP)
    assert mask[:, :298].all()
    assert not mask[:, 304:].any()


@pytest.mark.parametrize(("texture", "colour"), [(0.4, EOSIN), (0.0, (190, 110, 165))])
def test_a_core_of_half_a_millimetre_survives_at_its_size(texture: float, colour: tuple[int, int, int]) -> None:
    image = glass()
    core = disc(image, 100, 300, 500)
    mask = tissue_mask(stain(image, core, colour, texture), MPP)
    assert mask[core].mean() > 0.99
    assert not mask[~disc(image, 100, 300, 600)].any()


def test_flat_tissue_without_texture_is_found_by_its_density() -> None:
    image = glass()
    core = disc(image, 240, 200, 2400)
    mask = tissue_mask(stain(image, core, (190, 110, 165), texture=0.0), MPP)
    assert mask[core].mean() > 0.99


def test_dust_and_scratches_are_no_tissue() -> None:
    image = glass()
    for x, y in [(60, 60), (200, 320), (400, 80), (330, 210)]:
        image[disc(image, x, y, 50)] = (90, 80, 75)
    image[disc(image, 120, 200, 110)] = (150, 120, 140)
    cv2.line(image, (0, 370), (479, 340), (150, 140, 150), 2)
    assert not tissue_mask(image, MPP).any()


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    image = glass()
    body = disc(image, 240, 200, 2400)
    small, large = disc(image, 180, 200, 160), disc(image, 290, 200, 600)
    mask = tissue_mask(stain(image, body & ~small & ~large), MPP)
    assert mask[small].all()
    assert not mask[disc(image, 290, 200, 440)].any()
    assert mask[body & ~disc(image, 290, 200, 640)].mean() > 0.99


@pytest.mark.parametrize("width_um", [160, 600])
@pytest.mark.parametrize("colour", [(37, 95, 160), (30, 65, 130), (45, 115, 100), (70, 110, 110), (25, 25, 28)])
def test_ink_on_glass_is_no_tissue_and_tissue_beside_it_is(colour: tuple[int, int, int], width_um: float) -> None:
    image = glass()
    core = disc(image, 240, 250, 1500)
    image = stain(stain(image, core, HAEMATOXYLIN), stroke(image, width_um), colour, texture=0.1)
    mask = tissue_mask(jpeg(image), MPP)
    assert not mask[~disc(image, 240, 250, 1600)].any()
    assert mask[core].mean() > 0.99


def test_tissue_reaches_up_to_the_edge_of_ink() -> None:
    image = stain(glass(), np.ones((400, 480)))
    image = stain(image, stroke(image, 600), (45, 115, 100), texture=0.1)
    np.testing.assert_array_equal(tissue_mask(image, MPP), ~tissue._ink(image, MPP))


def test_black_borders_are_no_tissue() -> None:
    image = glass()
    image[:40], image[:, :15] = 6, 12
    assert not tissue_mask(jpeg(image), MPP).any()


def test_flips_and_turns_commute_with_the_mask() -> None:
    image = glass(403, 478)
    image = stain(stain(image, disc(image, 140, 250, 1500)), stroke(image, 300), (37, 95, 160))
    image[300:, 400:] = 255
    mask = tissue_mask(image, MPP)
    assert 0 < mask.mean() < 1
    turns: list[Callable[[Array], Array]] = [np.flipud, np.fliplr, np.rot90, lambda array: array.swapaxes(0, 1)]
    for turn in turns:
        assert np.mean(tissue_mask(turn(image), MPP) != turn(mask)) < 1e-4


@pytest.mark.parametrize("scale", [0.5, 0.8, 2.0])
def test_lengths_are_micrometres(scale: float) -> None:
    image = glass()
    image = stain(image, disc(image, 240, 200, 1000))
    size = (round(480 * scale), round(400 * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    expected = tissue_mask(image, MPP).mean()
    assert tissue_mask(scaled.astype(np.uint8), MPP / scale).mean() == pytest.approx(expected, rel=0.04)


def test_the_strip_height_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image = glass()
    image = stain(image, disc(image, 240, 250, 1500))
    whole = tissue_mask(image, MPP)
    monkeypatch.setattr(tissue, "STRIP_ROWS", 7)
    np.testing.assert_array_equal(tissue_mask(image, MPP), whole)


# Fractions ----------------------------------------------------------------------------------------------------------


def overlap(start: Array, length: float, pixels: int) -> Array:
    """Length of each pixel [p, p + 1) inside each interval [start, start + length)."""
    pixel = np.arange(pixels)
    return np.asarray(np.maximum(np.minimum(start[:, None] + length, pixel + 1) - np.maximum(start[:, None], pixel), 0))


@pytest.mark.slow
@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
    origins=st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), max_size=4),
    cell_size=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)),
    grid_shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_fractions_equal_the_overlap_of_every_pixel_with_every_cell(
    mask: Array, origins: list[tuple[float, float]], cell_size: tuple[float, float], grid_shape: tuple[int, int]
) -> None:
    (width, height), (rows, columns) = cell_size, grid_shape
    result = tissue_fraction(mask, origins, cell_size, grid_shape)
    assert result.shape == (len(origins), rows, columns)
    assert result.dtype == np.float32
    for got, (x, y) in zip(result, origins, strict=True):
        in_rows = overlap(y + height * np.arange(rows), height, mask.shape[0])
        in_columns = overlap(x + width * np.arange(columns), width, mask.shape[1])
        np.testing.assert_allclose(got, in_rows @ mask @ in_columns.T / (width * height), atol=1e-6)


def test_fractions_by_hand() -> None:
    mask = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.bool_)
    got = tissue_fraction(mask, [(0.5, 0.0), (-1.0, -1.0), (7.0, 7.0)], (1.5, 1.0), (2, 2))
    assert got.tolist() == [
        [[pytest.approx(1 / 3), 0], [0, pytest.approx(2 / 3)]],
        [[0, 0], [pytest.approx(1 / 3), pytest.approx(1 / 3)]],
        [[0, 0], [0, 0]],
    ]


def test_fractions_stay_exact_on_a_large_mask_that_is_a_view() -> None:
    mask = np.ones((3000, 5000), dtype=np.bool_)[::-1, ::2]
    got = tissue_fraction(mask, [(2400.3, 2900.7)], (10.0, 10.0), (16, 16))
    assert (got[0, :9, :9] == 1).all()
    assert got[0, 9, 0] == pytest.approx(0.93, abs=1e-6)
    assert got[0, 0, 9] == pytest.approx(0.97, abs=1e-6)
    assert (got[0, 10:] == 0).all()
