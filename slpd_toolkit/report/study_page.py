"""index.html of a study: the answer, then the results, the figures and the report of every stage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from slpd_toolkit.core.files import write_text
from slpd_toolkit.core.version import __version__
from slpd_toolkit.report.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.report.study_answer import Answer

INDEX = "index.html"
_HEATMAPS_SHOWN = 6


@dataclass(frozen=True)
class StageRow:
    """One stage as listed on the page."""

    name: str
    about: str
    outcome: str
    """Empty if everything was done."""
    report: Path
    command: str
    """The equivalent command, as shell text."""


@dataclass(frozen=True)
class StudyPage:
    """What the page shows."""

    title: str
    facts: str
    answer: Answer | None
    """None before the evaluation is complete."""
    stages: Sequence[StageRow]
    failures: Sequence[Failure]
    notes: Sequence[str]


def write_study_page(out: Path, page: StudyPage, figures: Sequence[tuple[Path, str]], heatmaps: Path) -> None:
    """Write the page.

    Args:
        out: Folder of the study, which contains most of what the page links to.
        page: Its contents.
        figures: Images and their captions, in order; missing files are left out.
        heatmaps: Folder of heatmaps.
    """
    pictures = sorted(heatmaps.glob("*.png"))[:_HEATMAPS_SHOWN]
    rendered = render(
        "study.html",
        page=page,
        version=__version__,
        stages=[(row, link(out, row.report) if row.report.exists() else "") for row in page.stages],
        figures=[(link(out, path), caption) for path, caption in figures if path.exists()],
        heatmaps=[(link(out, path), path.stem) for path in pictures],
    )
    write_text(out / INDEX, rendered)


def link(out: Path, target: Path) -> str:
    """Return a relative link from the page to a file or folder, which may be outside the folder of the study."""
    return quote(os.path.relpath(target.resolve(), out.resolve()))
