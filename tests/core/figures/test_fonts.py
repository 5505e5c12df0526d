from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from matplotlib.font_manager import FontEntry, findfont, fontManager

from slpd_toolkit.core.figures import fonts
from slpd_toolkit.core.figures.fonts import FAMILY, families_of
from slpd_toolkit.mil.tasks.class_figures import draw_confusion
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.report.evaluation_page import write_report
from tests.report.evaluations import classification, planted_evaluation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slpd_toolkit.core.figures.pictures import Picture

RARE, NOBODY_S = "\u1d81", "\U00012000"
"""What STIXGeneral has and DejaVu Sans has not, both of which come with matplotlib; and a cuneiform letter."""
STIX = findfont("STIXGeneral")
NAMES = "\u80ba\u764c"


@pytest.fixture(autouse=True)
def _no_other_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide installed fonts, which differ between machines, except the one shipped with matplotlib."""
    monkeypatch.setattr(fontManager, "ttflist", [FontEntry(findfont(FAMILY), name=FAMILY, weight=400)])
    families_of.cache_clear()
    yield
    families_of.cache_clear()


def install(name: str, path: str, weight: int = 400) -> None:
    fontManager.ttflist.append(FontEntry(path, name=name, weight=weight))
    families_of.cache_clear()


def confusion_of(names: list[str]) -> Picture:
    cohort, task = classification(12, names)
    assert isinstance(task, Classification)
    results = planted_evaluation(cohort, task, {"m": 1.0}, aggregators=["knn"], folds=3).results
    return draw_confusion("confusion-knn", results, task)


def test_what_the_usual_font_has_needs_no_other() -> None:
    install("STIXGeneral", STIX)
    assert families_of(frozenset("LUAD Übergang\n\t\u200b\u202e")) == ([FAMILY], frozenset())
    assert families_of(frozenset(f"a{RARE}{NOBODY_S}")) == ([FAMILY, "STIXGeneral"], frozenset(NOBODY_S))


def test_as_few_fonts_as_have_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = {findfont(FAMILY): "ab", "1": NAMES[0], "2": NAMES, "3": NAMES, "4": NAMES + RARE, "5": NAMES + RARE}
    monkeypatch.setattr(fonts, "_letters_in", lambda path: frozenset(letters[path]))
    for name, path in (("One Sans", "1"), ("Two", "2"), ("Three Sans", "3"), ("Last Resort", "4")):
        install(name, path)
    install("Bold", "5", weight=700)
    assert families_of(frozenset(NAMES[0])) == ([FAMILY, "One Sans"], frozenset())
    assert families_of(frozenset(f"a{NAMES}")) == ([FAMILY, "Three Sans"], frozenset())
    assert families_of(frozenset(RARE + NAMES)) == ([FAMILY, "Three Sans"], frozenset(RARE))


def test_a_font_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    install("Gone", str(tmp_path / "gone.ttf"))
    assert families_of(frozenset(RARE)) == ([FAMILY], frozenset(RARE))


def test_classes_are_drawn_in_the_font_that_has_them() -> None:
    frames = confusion_of([RARE, "b"])
    install("STIXGeneral", STIX)
    drawn = confusion_of([RARE, "b"])
    assert frames.unwritten == frozenset(RARE)
    assert drawn.unwritten == frozenset()
    assert drawn.svg != frames.svg


@pytest.mark.slow
def test_letters_that_no_font_has_are_told_once_and_stand_in_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, task = classification(24, [NOBODY_S, "b", "c"])
    evaluation = planted_evaluation(cohort, task, {"m": 1.0, "n": 1.0}, aggregators=["knn", "probe"], folds=3)
    write_report(tmp_path / "report.html", evaluation, lambda _: None)
    assert capsys.readouterr().err.startswith(f"note: No installed font has the characters {NOBODY_S}; ")
    assert capsys.readouterr().err == ""
    assert f"<td>{NOBODY_S}</td>" in (tmp_path / "report.html").read_text(encoding="utf-8")
