"""Site effects in the report of `slpd mil-eval` and in `slpd inspect --by site`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import slpd_toolkit as slpd
from slpd_toolkit.commands import inspect as inspection
from slpd_toolkit.config.inspect import InspectConfig
from slpd_toolkit.core.errors import UsageError
from tests.evaluations import Planted, plant, rewrite

if TYPE_CHECKING:
    from pathlib import Path


def flat(text: str) -> str:
    return " ".join(text.split())


def with_sites(folder: Path, shift_of_site: float) -> Planted:
    """Write 24 slides of two sites and two classes; the site shifts the tokens, the class does not."""
    sites = ["north", "north", "south", "south"] * 6
    columns = {"label": ["a", "b"] * 12, "site": sites}
    return plant(folder, columns, [shift_of_site * (site == "south") for site in sites])


@pytest.mark.slow
def test_an_evaluation_reports_site_effects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = with_sites(tmp_path, 6.0)
    found = planted.evaluate(tmp_path / "eval", aggregator=("knn",), permutations=10)
    (effects,) = found["site_effects"]
    assert effects["model"] == "mean-tokens"
    assert effects["values"]["site_accuracy"]["value"] == 1.0
    assert effects["values"]["site_accuracy"]["chance"] == 0.5
    assert effects["values"]["robustness_index"]["high"] < 0.4
    assert "A class has 2 sites, and folds need at least 3" in effects["not_measured"]["auc_gap"]
    page = (tmp_path / "eval" / "report.html").read_text()
    printed = flat(capsys.readouterr().out)
    for text in ("Site effects", "the site is predicted with a balanced accuracy of 1.000 over 2 sites (chance 0.500)"):
        assert text in page
        assert text in printed
    assert "expect the value within sites" in printed


@pytest.mark.slow
def test_without_sites_nothing_is_said(tmp_path: Path) -> None:
    planted = with_sites(tmp_path, 0.0)
    rewrite(planted.manifest, lambda rows: [{k: v for k, v in row.items() if k != "site"} for row in rows])
    found = planted.evaluate(tmp_path / "eval", aggregator=("knn",), permutations=10)
    assert "site_effects" not in found
    assert "Site effects" not in (tmp_path / "eval" / "report.html").read_text()


@pytest.mark.slow
def test_inspect_by_site_measures_mean_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = with_sites(tmp_path, 6.0)
    config = InspectConfig(path=planted.cache, by="site", manifest=planted.manifest)
    assert inspection.run(config) == 0
    printed = flat(capsys.readouterr().out)
    assert "mean-tokens: the site is predicted with a balanced accuracy of 1.000 over 2 sites (chance 0.500)" in printed
    table = slpd.inspect(planted.cache, by="site", manifest=planted.manifest).site_effects
    assert table["measured"].tolist() == ["site predicted (balanced accuracy)", "robustness index"]
    assert slpd.inspect(planted.cache).site_effects.empty


def test_inspect_by_site_without_classes_predicts_the_site_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = with_sites(tmp_path, 6.0)
    config = InspectConfig(path=planted.cache, by="site", manifest=planted.manifest, target="grade")
    assert inspection.run(config) == 0
    assert "The robustness index needs classes, but the target has none." in flat(capsys.readouterr().out)


def test_what_inspect_by_site_needs_is_said(tmp_path: Path) -> None:
    planted = with_sites(tmp_path, 0.0)
    with pytest.raises(UsageError, match="--by with --manifest"):
        InspectConfig(path=planted.cache, by="site")
    with pytest.raises(UsageError, match=r"--by sites: .* no such column, or it is empty \(did you mean site\?\)"):
        inspection.run(InspectConfig(path=planted.cache, by="sites", manifest=planted.manifest))
    with pytest.raises(UsageError, match=r"--by: .* is one slide"):
        inspection.run(InspectConfig(path=planted.cache / "s000.h5", by="site", manifest=planted.manifest))
    rewrite(planted.manifest, lambda rows: [{**row, "slide_id": f"x{row['slide_id']}"} for row in rows])
    with pytest.raises(UsageError, match="No slide of"):
        inspection.run(InspectConfig(path=planted.cache, by="site", manifest=planted.manifest))
