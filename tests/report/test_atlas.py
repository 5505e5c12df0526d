from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from slpd_toolkit.core.figures.pictures import COLOURS
from slpd_toolkit.report.atlas import Prototype, SlidePage, map_squares, write_atlas, write_strip
from slpd_toolkit.report.pages import VIEWER, viewer_link

if TYPE_CHECKING:
    from pathlib import Path


class Page(HTMLParser):
    """Anchors, links, pictures and squares of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.zooms: list[str] = []
        self.pictures: list[str] = []
        self.squares: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag == "section":
            self.ids.append(values["id"])
        if tag == "a":
            (self.zooms if values.get("class") == "zoom" else self.links).append(values["href"])
        if tag == "img":
            self.pictures.append(values["src"])
        if tag == "rect":
            self.squares.append(values["fill"])

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(slide_id: str, clusters: int, neighbours: list[tuple[str, float, bool]], picture: str = "") -> SlidePage:
    coords = np.stack([np.arange(clusters), np.zeros(clusters)], 1).astype(np.int64) * 100
    squares, width, height = map_squares(coords, 100, np.arange(clusters))
    prototypes = [
        Prototype(number=k, regions=int(k > 0), cosine=0.5 if k else float("nan"), picture=picture, counterpart="c")
        for k in range(clusters)
    ]
    return SlidePage(slide_id, clusters, prototypes, neighbours, squares, width, height)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    name = "<script>alert('x')</script>&\"quoted\""
    write_atlas(tmp_path / "index.html", name, [page_of(name, 2, [(name, 0.9, False)])], 1, 1234)
    page = Page(tmp_path / "index.html")
    assert "script" not in page.tags
    assert page.ids == [name]
    assert page.text.count(name) == 4  # the title twice, the slide, its neighbour
    assert "after 1,234 steps" in page.text


def test_links_go_to_slides_that_are_shown(tmp_path: Path) -> None:
    pages = [page_of("a", 2, [("b", 0.9, True), ("c", 0.8, False)]), page_of("b", 2, [("a", 0.9, True)])]
    write_atlas(tmp_path / "index.html", "run", pages, 3, 1)
    page = Page(tmp_path / "index.html")
    assert page.links == ["#b", "#a"]
    assert page.zooms == [f"{VIEWER}#slide={slide}&layers=regions:80,prototypes:45" for slide in "ab"]
    assert "slpd view" in page.text
    assert page.ids == ["a", "b"]
    assert "Showing 2 of 3 slides" in page.text


def test_empty_clusters_and_more_clusters_than_colours(tmp_path: Path) -> None:
    clusters = len(COLOURS) + 2
    write_atlas(tmp_path / "index.html", "run", [page_of("a", clusters, [("b", 0.5, False)])], 1, 1)
    page = Page(tmp_path / "index.html")
    assert page.squares == [*COLOURS, *COLOURS[:2]]
    assert "0 regions" in page.text
    assert "nan" not in page.text
    assert f"prototype {clusters}" in page.text


@pytest.mark.parametrize("offset", [0, 10**9])
def test_a_map_fits_its_box_wherever_the_tissue_lies(offset: int) -> None:
    coords = np.array([[0, 0], [300, 100], [100, 0]]) + offset
    squares, width, height = map_squares(coords, 100, np.array([0, 1, 0]))
    assert (width, height) == (100, 50)
    assert [(x, y, side) for x, y, side, _ in squares] == [(0, 0, 25), (75, 25, 25), (25, 0, 25)]
    assert [colour for *_, colour in squares] == [COLOURS[0], COLOURS[1], COLOURS[0]]


def test_a_strip_shows_thumbnails_side_by_side(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 200, 30)]
    write_strip(tmp_path / "strip.jpg", [np.full((40, 40, 3), colour, np.uint8) for colour in colours])
    with Image.open(tmp_path / "strip.jpg") as strip:
        assert strip.size == (84, 40)
        pixels = np.asarray(strip).astype(int)
    assert np.abs(pixels[20, 20] - colours[0]).max() < 12
    assert np.abs(pixels[20, 64] - colours[1]).max() < 12


def test_links_to_the_viewer_hold_any_name() -> None:
    assert viewer_link("a b&c#d/é") == f"{VIEWER}#slide=a%20b%26c%23d%2F%C3%A9"
    assert viewer_link("s1", "attention:50") == f"{VIEWER}#slide=s1&layers=regions:80,attention:50"
