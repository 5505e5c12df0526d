"""A generated slide, as read by OpenSlide, by the tissue detector and from its ground truth."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import openslide
import pytest

from slpd_toolkit.demo.anatomy import MAP_UM, REGION_UM
from slpd_toolkit.demo.architectures import Architecture, Kind
from slpd_toolkit.demo.artefacts import INKS, Artefact, draw_artefacts
from slpd_toolkit.demo.cohort_plan import PlannedSlide, plan_cohort
from slpd_toolkit.demo.nuclei import Cell
from slpd_toolkit.demo.painter import Painter
from slpd_toolkit.demo.slides import build_anatomy, paint_slide
from slpd_toolkit.demo.stain import draw_stain
from slpd_toolkit.slides.tissue import tissue_mask

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SMALL = replace(plan_cohort(1, seed=7, size=2)[0], rows=2, columns=2, mpp=0.82, artefacts=())
NUCLEI_IN = {Cell.TUMOUR: Kind.TUMOUR, Cell.EPITHELIUM: Kind.EPITHELIUM}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    paint_slide(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{SMALL.slide_id}.truth.json").read_text(encoding="utf-8"))
    return found


def level(folder: Path, number: int) -> npt.NDArray[np.uint8]:
    with openslide.OpenSlide(folder / f"{SMALL.slide_id}.tiff") as slide:
        picture = slide.read_region((0, 0), number, slide.level_dimensions[number]).convert("RGB")
    return np.asarray(picture, np.uint8)


def painter(planned: PlannedSlide) -> tuple[Painter, npt.NDArray[np.bool_]]:
    rng, anatomy, tissue = build_anatomy(planned)
    return Painter(rng, anatomy, draw_artefacts(rng, tissue, planned.artefacts), draw_stain(rng), planned.mpp), tissue


@pytest.mark.slow
def test_openslide_finds_levels_and_resolution(folder: Path) -> None:
    side = round(2 * REGION_UM / 0.82)
    with openslide.OpenSlide(folder / f"{SMALL.slide_id}.tiff") as slide:
        assert slide.properties[openslide.PROPERTY_NAME_VENDOR] == "generic-tiff"
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.82, rel=1e-4)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(0.82, rel=1e-4)
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        assert slide.level_dimensions == tuple((side // d, side // d) for d in (1, 2, 8, 32))


@pytest.mark.slow
def test_levels_are_means_of_the_one_above(folder: Path) -> None:
    full, half, eighth = (level(folder, number).astype(float) for number in range(3))
    for fine, coarse, factor in ((full, half, 2), (half, eighth, 4)):
        height, width = coarse.shape[:2]
        means = fine[: height * factor, : width * factor].reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
        off = np.abs(means - coarse).mean()
        assert off < 6  # both went through JPEG
        assert off < 0.4 * np.abs(means[1:, 1:] - coarse[:-1, :-1]).mean(), "moved by a pixel"


@pytest.mark.slow
def test_the_file_holds_what_the_painter_paints_at_every_place(folder: Path) -> None:
    full, (paints, _) = level(folder, 0).astype(float), painter(SMALL)
    for left, top, width, height in ((300, 500, 400, 300), (900, 800, 300, 333), (0, 1000, 128, 128)):
        painted = paints.paint(left, top, width, height)
        assert np.abs(full[top : top + height, left : left + width] - painted).mean() < 4  # JPEG


@pytest.mark.slow
def test_a_rectangle_is_the_same_whatever_is_painted_around_it() -> None:
    paints, _ = painter(SMALL)
    large = paints.paint(400, 300, 500, 450)
    small = paints.paint(531, 402, 222, 123)
    difference = np.abs(large[102:225, 131:353].astype(int) - small.astype(int))
    assert difference.mean() < 0.05
    assert (difference.max(axis=-1) > 3).mean() < 0.002  # rounding of coordinates


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_one_another_slide(folder: Path, tmp_path: Path) -> None:
    paint_slide(SMALL, tmp_path)
    name = f"{SMALL.slide_id}.tiff"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    paint_slide(replace(SMALL, slide_id="other", seed=(8, 1, 0, 0), rows=1), tmp_path)
    assert (tmp_path / "other.tiff").read_bytes() != (folder / name).read_bytes()


@pytest.mark.slow
def test_a_slide_that_is_there_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / f"{SMALL.slide_id}.tiff").write_bytes(b"complete")
    paint_slide(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{SMALL.slide_id}.tiff"]


@pytest.mark.slow
def test_tissue_is_pink_and_violet_on_pale_glass(folder: Path) -> None:
    rgb, (_, tissue) = level(folder, 1).astype(float), painter(SMALL)
    size = rgb.shape[1::-1]
    inside = cv2.erode(cv2.resize(tissue.astype(np.uint8), size), np.ones((15, 15), np.uint8)) > 0
    outside = cv2.dilate(cv2.resize(tissue.astype(np.uint8), size), np.ones((31, 31), np.uint8)) == 0
    assert rgb[outside].mean() > 230
    assert np.ptp(rgb[outside].mean(axis=0)) < 10
    red, green, blue = rgb[inside].mean(axis=0)
    assert 140 < red < 235
    assert green < min(red, blue) - 20  # what both stains absorb most
    assert rgb[inside].std() > 25


@pytest.mark.slow
def test_the_tissue_detector_finds_what_was_painted(folder: Path) -> None:
    _, tissue = painter(SMALL)
    thumbnail = cv2.resize(level(folder, 2), (128, 128), interpolation=cv2.INTER_AREA)
    found = tissue_mask(np.asarray(thumbnail, np.uint8), 2 * REGION_UM / 128)
    wanted = cv2.resize(tissue.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) > 0.5
    assert (found & wanted).sum() / (found | wanted).sum() > 0.85


@pytest.mark.parametrize("ink", INKS)
def test_pen_marks_beside_the_tissue_are_not_tissue(ink: str) -> None:
    rng, _, tissue = build_anatomy(SMALL)
    spoilt = draw_artefacts(rng, tissue, [Artefact.PEN])
    assert spoilt.pen is not None
    cover = spoilt.pen[..., None]
    glass = np.full((*tissue.shape, 3), 240, np.float32) * (1 - cover * (1 - np.array(INKS[ink]) / 255))
    thumbnail = cv2.resize(glass.astype(np.uint8), (128, 128), interpolation=cv2.INTER_AREA)
    marked = cv2.resize(spoilt.pen, (128, 128), interpolation=cv2.INTER_AREA) > 0.1
    found = tissue_mask(np.asarray(thumbnail, np.uint8), 2 * REGION_UM / 128)
    assert (spoilt.pen > 0.5).sum() * MAP_UM**2 > 50_000, "there is a pen mark to be found"
    assert found.sum() < 0.1 * marked.sum()


def test_truth_adds_up(truth: dict[str, Any]) -> None:
    assert truth["label"] == SMALL.label
    assert sum(truth["mixture"].values()) == pytest.approx(1, abs=1e-3)
    assert sum(truth["kinds"].values()) == pytest.approx(1, abs=1e-3)
    totals = dict.fromkeys(truth["mixture"], 0.0)
    for region in truth["regions"]:
        assert sum(region["shares"].values()) == pytest.approx(region["tissue"], abs=1e-3)
        assert region["shares"][region["architecture"]] == max(region["shares"].values())
        assert (region["x_um"], region["y_um"]) == (region["column"] * REGION_UM, region["row"] * REGION_UM)
        for name, share in region["shares"].items():
            totals[name] += share
    whole = sum(totals.values())
    assert {name: total / whole for name, total in totals.items()} == pytest.approx(truth["mixture"], abs=2e-3)


def test_nuclei_lie_in_their_kind_of_tissue_and_none_on_glass() -> None:
    planned = replace(SMALL, mixture=(0.25, 0, 0.25, 0, 0, 0, 0.2, 0.3))
    _, anatomy, tissue = build_anatomy(planned)
    for cell, nuclei in anatomy.nuclei.items():
        assert len(nuclei.x_um) > 50, cell
        rows, columns = (nuclei.y_um / MAP_UM).astype(int), (nuclei.x_um / MAP_UM).astype(int)
        assert tissue[rows, columns].all()
        if cell in NUCLEI_IN:
            assert (anatomy.kinds[rows, columns] == NUCLEI_IN[cell]).all()
    assert set(np.unique(anatomy.kinds)) == set(Kind)
    assert (anatomy.architecture > 0).tolist() == tissue.tolist()
    assert Architecture.NESTS in anatomy.architecture


@pytest.mark.slow
def test_sections_end_before_the_slide_does() -> None:
    for seed in range(6):
        _, _, tissue = build_anatomy(replace(SMALL, seed=(seed,)))
        border = np.concatenate([tissue[0], tissue[-1], tissue[:, 0], tissue[:, -1]])
        assert not border.any()
        assert 0.45 < tissue.mean() < 0.72


@pytest.mark.slow
def test_folds_darken_and_places_out_of_focus_lose_detail() -> None:
    rng, anatomy, tissue = build_anatomy(SMALL)
    spoilt = draw_artefacts(rng, tissue, [Artefact.FOLD, Artefact.BLUR])
    assert spoilt.fold is not None
    assert spoilt.blur is not None
    clean = spoilt._replace(fold=None, blur=None)
    stain = draw_stain(rng)

    def painted(artefacts: Any) -> npt.NDArray[np.float64]:
        own = Painter(np.random.default_rng(0), anatomy, artefacts, stain, 1.0)
        return own.paint(0, 0, 1024, 1024).astype(float)

    before = painted(clean)
    fold = cv2.resize(spoilt.fold, (1024, 1024)) > 0.5
    assert painted(clean._replace(fold=spoilt.fold))[fold].mean() < before[fold].mean() - 15
    blur = (cv2.resize(spoilt.blur, (1024, 1024)) > 0.9) & (cv2.resize(tissue.astype(np.uint8), (1024, 1024)) > 0)
    after = painted(clean._replace(blur=spoilt.blur))
    assert (
        np.abs(np.diff(after[..., 1]))[blur[:, 1:]].mean() < 0.6 * np.abs(np.diff(before[..., 1]))[blur[:, 1:]].mean()
    )
