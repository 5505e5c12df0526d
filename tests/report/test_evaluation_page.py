from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.mil.statistics.intervals import Interval
from slpd_toolkit.report.evaluation_page import flatten, write_report
from slpd_toolkit.report.pages import VIEWER
from slpd_toolkit.report.thumbnails import WholeSlide
from tests.report.evaluations import REGION_L0, classification, planted_evaluation, survival

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slpd_toolkit.mil.statistics.results import Evaluation

VOID = {"meta", "img", "br"}
OPTIONAL_END = {"html"}


class Page(HTMLParser):
    """Text, IDs, sources and structure of a page; fails on unclosed elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.alternatives: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert set(self.open) <= OPTIONAL_END

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag == "img":
            self.sources.append(values["src"])
            self.alternatives.append(values["alt"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def nothing(_: str) -> None:
    return None


def report(tmp_path: Path, evaluation: Evaluation, thumbnails: Callable[[str], WholeSlide | None] = nothing) -> Page:
    """Write a report, and check the properties of all reports."""
    path = tmp_path / "report.html"
    write_report(path, evaluation, thumbnails)
    page = Page(path)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links if not link.startswith(VIEWER)} <= set(page.ids)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert all(page.alternatives)
    text = path.read_text(encoding="utf-8").replace(VIEWER, "")  # a link to this machine, which loads nothing
    assert not re.search(r"url\(|@import|https?://", text)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    figures = {item.name: item.read_text(encoding="utf-8") for item in (tmp_path / "figures").iterdir()}
    assert all(ET.fromstring(svg).tag.endswith("svg") for svg in figures.values())
    shown = [base64.b64decode(source.partition(",")[2]).decode() for source in page.sources if _is_svg(source)]
    assert sorted(shown) == sorted(figures.values())
    return page


def _is_svg(source: str) -> bool:
    return source.startswith("data:image/svg+xml;base64,")


def figures(tmp_path: Path) -> set[str]:
    return {item.stem for item in (tmp_path / "figures").iterdir()}


@pytest.mark.slow
def test_a_binary_task_with_two_models(tmp_path: Path) -> None:
    cohort, task = classification(45, ["LUAD", "LUSC"])
    evaluation = planted_evaluation(cohort, task, {"slpd": 2.5, "dino": 1.0}, known=True, notes=["3 slides left out."])
    page = report(tmp_path, evaluation)
    assert figures(tmp_path) == {"intervals", "folds", "roc", "calibration", "confusion-knn", "confusion-abmil"}
    for said in (
        "label <b>&: 2 models with 2 aggregators",
        f"{len(cohort.slides)} slides of 45 patients",
        "3 slides left out.",
        "Leakage audit: pretraining used test patients",
        "slpd, dino: findings in 4 of 4 splits.",
        f"included {len(cohort.slides)} of {len(cohort.slides)} evaluated slides, without labels",
        "Corrected t-test of folds",
        "Attention: where abmil looked",
        "versions.slpd_toolkit",
    ):
        assert said in page.text, said
    for result in evaluation.results:
        mean, sd = np.mean(result.values["auc"]), np.std(result.values["auc"], ddof=1)
        assert f"{mean:.3f} ± {sd:.3f}" in page.text
        assert f"[{result.intervals['auc'].low:.3f}, {result.intervals['auc'].high:.3f}]" in page.text


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    cohort, task = classification(30, ["a", "b"])
    evaluation = planted_evaluation(cohort, task, {"slpd": 1.0}, aggregators=["abmil"])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report(tmp_path / name, evaluation)
    assert (tmp_path / "one" / "report.html").read_bytes() == (tmp_path / "two" / "report.html").read_bytes()


@pytest.mark.slow
def test_many_classes_repeats_and_a_leak(tmp_path: Path) -> None:
    names = [f"class {letter}" for letter in "abcdefgh"]
    cohort, task = classification(40, names)
    strengths = {"slpd": 2.0, "dino": 1.0}
    page = report(
        tmp_path, planted_evaluation(cohort, task, strengths, aggregators=["knn"], folds=3, repeats=2, leak=True)
    )
    assert "roc-classes-knn" in figures(tmp_path)
    assert "Leakage audit: the splits leak" in page.text
    assert "in both train and test" in page.text
    assert "6 splits in 2 repeats" in page.text
    assert "DeLong's test" not in page.text


@pytest.mark.slow
def test_figures_of_an_earlier_page_go_and_a_user_s_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("roc-classes-trans-mil.svg", "kaplan-meier-knn.svg", "mine.svg", "folds.png"):
        (tmp_path / "figures" / name).touch()
    cohort, task = classification(30, ["0", "1", "2"], ordinal=True)
    evaluation = planted_evaluation(cohort, task, {"slpd": 2.0}, aggregators=["probe"])
    write_report(tmp_path / "report.html", evaluation, lambda _: None)
    assert {"mine", "folds"} <= figures(tmp_path)
    assert figures(tmp_path).isdisjoint({"roc-classes-trans-mil", "kaplan-meier-knn"})


@pytest.mark.slow
def test_ordinal_classes(tmp_path: Path) -> None:
    cohort, task = classification(45, ["0", "1", "2"], ordinal=True)
    page = report(tmp_path, planted_evaluation(cohort, task, {"slpd": 2.0, "dino": 1.0}))
    assert figures(tmp_path) == {"intervals", "folds", "calibration", "confusion-knn", "confusion-abmil"}
    assert "Results: quadratic kappa" in page.text
    assert "Chance-corrected agreement; disagreement is weighted" in page.text


@pytest.mark.slow
def test_survival(tmp_path: Path) -> None:
    cohort, task = survival(45)
    page = report(tmp_path, planted_evaluation(cohort, task, {"slpd": 1.0, "dino": 0.5}))
    assert figures(tmp_path) == {
        "intervals",
        "folds",
        "kaplan-meier-knn",
        "kaplan-meier-abmil",
        "survival-calibration",
    }
    assert "Results: concordance index" in page.text
    assert "censored" in page.text
    assert "Confusion" not in page.text


@pytest.mark.slow
def test_names_are_text_in_page_and_figures(tmp_path: Path) -> None:
    """Markup, quotes, formulas, a leading underscore; one model, a probe, vectors without coordinates."""
    name = "_<script>alert('x')</script> $\\frac{1}$"
    cohort, task = classification(30, ['neg "q"', "pos <i>$x_1$"])
    page = report(tmp_path, planted_evaluation(cohort, task, {name: 0.5}, aggregators=["probe"], places=False))
    assert "i" not in page.tags
    assert name in page.text
    assert "Positive class: pos <i>$x_1$." in page.text
    assert "comparisons" not in page.ids
    assert "attention" not in page.ids
    svg = (tmp_path / "figures" / "roc.svg").read_text()
    assert "&lt;script&gt;" in svg or "script" not in svg


@pytest.mark.slow
def test_what_is_undefined_is_called_so(tmp_path: Path) -> None:
    cohort, task = classification(30, ["a", "b"])
    evaluation = planted_evaluation(cohort, task, {"slpd": 1.0, "dino": 1.0}, aggregators=["knn"])
    first, second = evaluation.results
    nothing_defined = replace(
        first,
        values={**first.values, "auc": np.full(4, np.nan)},
        intervals={**first.intervals, "auc": Interval(np.nan, np.nan, 0)},
    )
    one_fold = replace(second, values={**second.values, "auc": np.array([0.7, np.nan, np.nan, np.nan])})
    page = report(tmp_path, replace(evaluation, results=(nothing_defined, one_fold)))
    assert page.text.count("undefined") >= 2
    assert "Highest mean: dino, knn: AUC 0.700 over" in page.text


@pytest.mark.slow
def test_overlays_lie_on_thumbnails_of_the_size_that_the_regions_were_cut_from(tmp_path: Path) -> None:
    cohort, task = classification(30, ["a", "b"])
    evaluation = planted_evaluation(cohort, task, {"slpd": 0.5, "dino": 0.2}, aggregators=["abmil"])
    asked: list[str] = []

    def thumbnails(slide_id: str, size_l0: tuple[int, int] = (4 * REGION_L0, 4 * REGION_L0)) -> WholeSlide | None:
        asked.append(slide_id)
        return WholeSlide(np.full((80, 80, 3), 150, np.uint8), size_l0) if slide_id.endswith("-0") else None

    page = report(tmp_path, evaluation, thumbnails)
    assert len(asked) == len(set(asked)) == 8
    with_pixels = sum(slide.endswith("-0") for slide in asked)
    assert sum(source.startswith("data:image/jpeg") for source in page.sources) == 3 * with_pixels
    other = report(tmp_path, evaluation, lambda slide_id: thumbnails(slide_id, (5 * REGION_L0, 4 * REGION_L0)))
    assert sum(source.startswith("data:image/jpeg") for source in other.sources) == with_pixels  # the thumbnails alone
    assert sum(source.startswith("data:image/png") for source in page.sources) == 2 * (8 - with_pixels)


@pytest.mark.slow
def test_a_report_of_a_thousand_slides_is_small(tmp_path: Path) -> None:
    cohort, task = classification(660, ["a", "b", "c", "d"])
    assert len(cohort.slides) > 950
    evaluation = planted_evaluation(cohort, task, {"slpd": 1.0, "dino": 0.5}, aggregators=["abmil"], folds=3)
    noisy = np.random.default_rng(0).integers(0, 255, (600, 600, 3)).astype(np.uint8)
    report(tmp_path, evaluation, lambda _: WholeSlide(noisy, (4 * REGION_L0, 4 * REGION_L0)))
    assert (tmp_path / "report.html").stat().st_size < 4e6


def test_settings_become_dotted_rows() -> None:
    assert flatten({"a": 1, "b": {"c": "x", "d": {"e": None}}, "f": [1, "ü"], "g": {}}) == [
        ("a", "1"),
        ("b.c", "x"),
        ("b.d.e", "null"),
        ("f", '[1, "ü"]'),
        ("g", "{}"),
    ]
