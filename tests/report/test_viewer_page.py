"""The page of `slpd view` in a real Chromium: mouse, keyboard only, links, damaged slides, contrast, no network."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from slpd_toolkit.commands.view import OpenedView, open_view
from slpd_toolkit.config.view import ViewConfig
from tests.chromium import PROGRAM, Page
from tests.report.viewing import write_study

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium"),
]

REGIONS = {"s1": 6, "s2": 3, "s3": 9}
READY = "document.documentElement.dataset.ready === 'true'"
LOW_CONTRAST = """
(() => {
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map(Number).slice(0, 3).map((value) => channel(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0\\)|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.checkVisibility() || element.disabled || element.closest("#stage")) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) found.push(element.outerHTML.slice(0, 80));
  }
  return found;
})()
"""
OVERFLOW = """
[...document.querySelectorAll("header, header *, .filters *, .layer, .layer *, #bar, #bar button")]
  .filter((each) => each.checkVisibility() && !each.closest(".hidden") && !each.matches("option, .hidden"))
  .filter((each) => { const box = each.getBoundingClientRect(); return box.right > innerWidth + 1 || box.left < -1; })
  .map((each) => each.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedView]:
    folder = tmp_path_factory.mktemp("viewed")
    study = write_study(folder, REGIONS)
    (folder / "slides" / "s3.tif").write_bytes(b"II*\0 not a slide")
    with open_view(ViewConfig(folder=study, port=0, manifest=folder / "cohort.csv")) as found:
        found.server.start()
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("profile")) as found:
        yield found


def start(page: Page, opened: OpenedView, link: str = "") -> None:
    page.open("about:blank")
    page.open(opened.url + link)
    page.wait(READY)


def pixels_of_stage(page: Page) -> np.ndarray:
    box = page.run("(({x, y, width, height}) => [x, y, x + width, y + height])(stage.getBoundingClientRect())")
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB").crop(box))


def test_a_click_shows_a_region_and_its_neighbors(page: Page, opened: OpenedView) -> None:
    start(page, opened, "#slide=s1")
    page.wait("document.querySelectorAll('#list a').length === 3")
    assert page.run("document.querySelector('#list [aria-current]').innerText").split("\n")[0] == "s1"
    assert "predicted a 91 %" in page.run("facts.textContent")
    # The slide fits, so that region 1 (row 0, column 1 of 4) lies at three eighths of its width.
    x, y = page.run(
        "(({x, y, width, height}) => { const scale = Math.min(width / 1024, height / 768);"
        "return [x + width / 2 + (384 - 512) * scale, y + height / 2 + (128 - 384) * scale]; })"
        "(stage.getBoundingClientRect())"
    )
    page.click(x, y)
    page.wait("document.querySelector('#region-title').textContent === 'Region 2 of 6'")
    text = page.wait("region.innerText.includes('Nearest') && region.innerText")
    assert "Prototype 2 of 2: 3 of 6 regions, cosine 0.75" in text
    assert "s2, prototype 2" in text
    page.wait("document.querySelectorAll('.near a').length === 8")
    target = page.run("document.querySelector('.near a').title")
    page.run("document.querySelector('.near a').click()")
    slide, region = target.split(", region ")
    page.wait(f"document.querySelector('#name').textContent === '{slide}'")
    page.wait(f"document.querySelector('#region-title').textContent.startsWith('Region {region} of')")
    page.run("history.back()")
    page.wait("document.querySelector('#name').textContent === 's1'")
    page.wait("document.querySelector('#region-title').textContent === 'Region 2 of 6'")
    assert [said for said in page.complaints() if "/slides/s3/" not in said] == []  # whose file is damaged


def test_pixels_and_layers_are_drawn(page: Page, opened: OpenedView) -> None:
    start(page, opened, "#slide=s1&layers=")
    page.wait("performance.getEntriesByType('resource').some(({name}) => name.includes('/tiles/'))")
    plain = pixels_of_stage(page)
    for _ in range(100):
        if plain.std() > 20:  # tissue on glass
            break
        plain = pixels_of_stage(page)
    assert plain.std() > 20
    page.press("3")
    page.wait("location.hash.includes('prototypes:45')")
    colored = pixels_of_stage(page)
    assert np.abs(colored.astype(int) - plain.astype(int)).mean() > 10
    page.press("3")
    page.wait("!location.hash.includes('prototypes')")
    assert np.abs(pixels_of_stage(page).astype(int) - plain.astype(int)).mean() < 1


def test_everything_can_be_done_from_the_keyboard(page: Page, opened: OpenedView) -> None:
    start(page, opened, "#slide=s1")
    page.press("n")
    page.wait("document.documentElement.dataset.slide === 's2'")
    page.press("p")
    page.wait("document.documentElement.dataset.slide === 's1'")
    page.press("]")
    page.press("]")
    page.wait("document.querySelector('#region-title').textContent === 'Region 2 of 6'")
    page.press("z")
    page.wait("Number(new URLSearchParams(location.hash.slice(1)).get('w')) < 1024")
    near = page.run("location.hash")
    page.press("0")
    page.wait(f"location.hash !== {near!r}")
    page.press("4")
    page.wait("location.hash.includes('attention:50')")
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    for letter in "p2 b":
        page.press(letter)
    page.wait("document.querySelector('#count').textContent === '0 of 3 slides'")
    page.press("Escape")
    assert page.run("document.activeElement.id") != "search"
    page.run("search.value = 'P2'; search.dispatchEvent(new Event('input'))")
    page.wait("document.querySelector('#count').textContent === '1 of 3 slides'")
    page.press("n")
    page.wait("document.querySelector('#name').textContent === 's3'")
    page.press("?", shift=True)
    page.wait("help.open")
    page.press("Escape")
    page.wait("!help.open")
    reached = set()
    for _ in range(60):
        page.press("Tab")
        reached.add(page.run("document.activeElement.id || document.activeElement.tagName"))
    assert {"search", "label-filter", "order", "A", "previous", "next", "zoom-in", "home", "stage"} <= reached


def test_a_link_restores_the_view(page: Page, opened: OpenedView) -> None:
    start(page, opened, "#slide=s2&x=300&y=200&w=400&region=1&layers=attention:30,tissue:70&q=s&label=b&sort=label")
    page.wait("location.hash.includes('run=')")
    page.run("new Promise((done) => setTimeout(done, 700))")
    state = dict(part.split("=") for part in page.run("location.hash.slice(1)").split("&"))
    assert (state["slide"], state["region"], state["q"], state["label"], state["sort"]) == (
        "s2",
        "1",
        "s",
        "b",
        "label",
    )
    assert state["layers"] == "attention:30,tissue:70"
    assert [float(state[name]) for name in "xyw"] == pytest.approx([300, 200, 400], abs=2)
    assert page.run("document.querySelector('#region-title').textContent") == "Region 2 of 3"
    assert page.run("document.querySelector('#count').textContent") == "1 of 3 slides"
    assert page.run("location.search") == ""  # the token is not in the address


def test_a_damaged_slide_and_a_wrong_link_say_so(page: Page, opened: OpenedView) -> None:
    start(page, opened, "#slide=s3")
    said = page.wait("!message.hidden && message.textContent")
    assert "damaged" in said
    assert "s3.tif" in said
    assert page.run("document.querySelector('#facts').textContent").count("9 regions") == 1
    start(page, opened, "#slide=gone")
    assert "gone" in page.wait("!message.hidden && message.textContent")


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1920, 1080)])
def test_it_fits_the_screen_and_can_be_read(page: Page, opened: OpenedView, width: int, height: int) -> None:
    page.resize(width, height)
    start(page, opened, "#slide=s1&region=1&layers=attention:50,prototypes:40")
    page.wait("document.querySelectorAll('.near a').length === 8")
    assert page.run("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [width, height]
    assert page.run(OVERFLOW) == []
    assert page.run(LOW_CONTRAST) == []
    assert {address.split("/")[2] for address in page.requested() if address.startswith("http")} == {
        f"127.0.0.1:{opened.server.port}"
    }
