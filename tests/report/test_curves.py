from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.report.curves import PANELS, draw_curves
from slpd_toolkit.training.metrics_file import columns

if TYPE_CHECKING:
    from pathlib import Path

TITLES = [title for title, _ in PANELS]


def drawn(path: Path, rows: list[dict[str, str]]) -> tuple[list[str], str]:
    """Draw the curves; return the titles of the panels, and the whole file."""
    draw_curves(path, rows)
    text = path.read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    return [title for title in TITLES if f"<!-- {title} -->" in text], text


def row(step: int, **values: str) -> dict[str, str]:
    return dict.fromkeys(columns(), "") | {"step": str(step)} | values


@pytest.mark.slow
def test_all_panels_are_drawn_with_what_the_run_measured(tmp_path: Path) -> None:
    rows = [row(step, **{name: str(step / 7) for name in columns() if name != "step"}) for step in range(1, 30)]
    titles, text = drawn(tmp_path / "curves.svg", rows)
    assert titles == TITLES
    for label in ("dino", "intra", "inter", "gradient norm", "centre norm", "clusters empty"):
        assert f"<!-- {label} -->" in text


@pytest.mark.slow
def test_terms_that_are_off_are_left_out(tmp_path: Path) -> None:
    rows = [row(step, loss="2.5", dino="2.5", intra="0.0", inter="0.0", lr="0.1") for step in range(1, 4)]
    titles, text = drawn(tmp_path / "curves.svg", rows)
    assert titles == TITLES
    assert "<!-- dino -->" in text
    assert "<!-- intra -->" not in text


@pytest.mark.slow
def test_short_and_odd_runs_are_drawn(tmp_path: Path) -> None:
    """No rows, a single row, and a gradient that overflowed in half precision."""
    assert drawn(tmp_path / "none.svg", [])[0] == TITLES
    assert (
        drawn(tmp_path / "one.svg", [row(1, loss="1.0", gradient_norm="inf", centre_norm="nan", lr="0.0")])[0] == TITLES
    )


def test_columns_are_those_of_metrics() -> None:
    assert {name for _, columns in PANELS for name in columns} <= {*columns(), *columns(("slide",), "slides")}
