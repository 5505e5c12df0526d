from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from slpd_toolkit.core.failures import Failure
from slpd_toolkit.report.pages import VIEWER
from slpd_toolkit.report.qc import REGION_RGB, TISSUE_RGB, draw_overlay, write_contact_sheet
from slpd_toolkit.slides.plan import SlidePlan
from slpd_toolkit.slides.regions import Lattice
from slpd_toolkit.slides.slide import Thumbnail
from tests.cohorts import write_token_file

if TYPE_CHECKING:
    from pathlib import Path


def plan(
    width_l0: int, height_l0: int, *, step: int = 16, corners: Any = (), region_l0: int = 1024, tissue: Any = None
) -> SlidePlan:
    shape = (-(-height_l0 // step), -(-width_l0 // step))
    mask = np.zeros(shape, np.bool_)
    if tissue is not None:
        mask[tissue] = True
    rgb = np.full((*shape, 3), 250, np.uint8)
    coords = np.array(corners, np.int64).reshape(-1, 2)
    lattice = Lattice(width_l0, height_l0, 0.5, 0.5, 256, 1024, region_l0, 1)
    tissue_of_patches = np.zeros((len(coords), 4, 4), np.float32)
    return SlidePlan(lattice, Thumbnail(rgb, step, 0.5 * step), mask, coords, tissue_of_patches, mask, 512.0)


def drawn(path: Path, found: SlidePlan) -> np.ndarray[Any, np.dtype[np.int64]]:
    draw_overlay(path, found)
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.mode == "RGB"
        return np.asarray(picture).astype(np.int64)


def near(picture: Any, colour: tuple[int, int, int], tolerance: int = 60) -> Any:
    return np.abs(picture - np.array(colour)).max(axis=-1) < tolerance


def test_the_picture_shows_tissue_and_regions_where_they_are(tmp_path: Path) -> None:
    found = plan(4096, 3072, corners=[(0, 0), (2048, 1024)], tissue=np.s_[64:160, 100:220])
    picture = drawn(tmp_path / "a.jpg", found)
    assert picture.shape == (192, 256, 3)
    region = near(picture, REGION_RGB)
    rows, columns = np.nonzero(region)
    assert (rows.min(), columns.min()) == (0, 0)
    assert abs(rows.max() - 128) <= 2
    assert abs(columns.max() - 192) <= 2
    assert region[63, 10:50].all()
    assert region[10:50, 63].all()
    assert region[70:120, 128].all()
    assert not region[100, 140:180].any()
    green = near(picture, TISSUE_RGB)
    assert green[100:120, 100].all()
    assert green[159, 200:215].all()
    assert not green[:50].any()


def test_padding_beyond_the_slide_is_grey(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "a.jpg", plan(512, 700, corners=[(0, 0)]))
    assert picture.shape == (64, 64, 3)
    for part, grey in ((picture[10:40, 36:60], 235), (picture[48:60, 5:60], 235), (picture[8:40, 5:28], 250)):
        assert part.mean() == pytest.approx(grey, abs=2)


def test_a_large_slide_is_a_picture_of_at_most_1200_px(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.jpg", plan(100_000, 40_000, step=32)).shape == (480, 1200, 3)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (100_000, 3), (3, 100_000), (1200 * 16 + 1, 17)])
def test_odd_shapes_are_drawn(tmp_path: Path, width: int, height: int) -> None:
    drawn(tmp_path / "a.jpg", plan(width, height, corners=[(0, 0)], region_l0=64))
    drawn(tmp_path / "b.jpg", plan(width, height))


class Links(HTMLParser):
    """The links, pictures and tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = [value for name, value in attrs if name in {"href", "src"} and value is not None]
        self.targets += [value for value in values if not value.startswith(VIEWER)]


def sheet(cache: Path, failures: list[Failure] | None = None) -> str:
    folder = cache / "qc"
    folder.mkdir(exist_ok=True)
    write_contact_sheet(cache, folder, failures or [])
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_sheet_shows_the_whole_cache_with_links_that_resolve(tmp_path: Path) -> None:
    (tmp_path / "qc").mkdir()
    for name in ("a", "b.c-1", "no-picture"):
        write_token_file(tmp_path / f"{name}.h5", upsampling=1.3 if name == "a" else 1.0)
        if name != "no-picture":
            (tmp_path / "qc" / f"{name}.jpg").touch()
    (tmp_path / "qc" / "bad.jpg").touch()
    (tmp_path / "broken.h5").write_bytes(b"")
    page = sheet(tmp_path, [Failure("embed", "bad", "bad.svs", "no tissue.", "Look.")])
    targets = Links(page).targets
    assert sorted(set(targets)) == ["a.jpg", "b.c-1.jpg", "bad.jpg"]
    assert all((tmp_path / "qc" / unquote(target)).is_file() for target in targets)
    assert "3 slides, 9 regions, 1 failed" in page
    assert page.index("no tissue. Look.") < page.index("b.c-1")
    assert page.count("upsampled by a factor of 1.30") == 1
    assert "no-picture" in page


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    cache = tmp_path / "<b>&cache"
    cache.mkdir()
    evil = '"><script>alert(1)</script>'
    page = sheet(
        cache, [Failure("embed", evil, evil, f"error {evil}", f"hint {evil}"), Failure("embed", "", evil, "", "")]
    )
    plain = sheet(tmp_path, [Failure("embed", "a", "a", "e", "h"), Failure("embed", "", "b", "", "")])
    assert Links(page).tags == Links(plain).tags
    assert "script" not in Links(page).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;&amp;cache" in page


def test_a_failed_slide_id_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").touch()
    assert Links(sheet(tmp_path, [Failure("embed", "../secret", "x", "e", "h")])).targets == []


def test_an_empty_cache_is_an_empty_sheet(tmp_path: Path) -> None:
    page = sheet(tmp_path)
    assert "0 slides, 0 regions" in page
    assert "failed</h1>" not in page
