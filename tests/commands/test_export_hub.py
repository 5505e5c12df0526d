"""`slpd export eval/a --to hub-folder`: a bundle that a hub takes as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slpd_toolkit.commands import export, predict
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.core.errors import UsageError
from tests.evaluations import two_classes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_folder_of_a_hub_is_a_bundle_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text(""))
    cohort = two_classes(tmp_path, slides=12)
    cohort.evaluate(tmp_path / "eval", aggregator=("knn",), folds=3)
    monkeypatch.chdir(tmp_path)
    config = ExportConfig(source=tmp_path / "eval", to="hub-folder")
    assert export.run(config) == export.run(config) == 0  # the second replaces the first
    names = {path.name for path in (tmp_path / "hub-folder").iterdir() if not path.name.startswith(".")}
    assert names == {"README.md", "SHA256SUMS", "bundle.json", "heads.safetensors", "training.safetensors"}
    readme = (tmp_path / "hub-folder" / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: slpd_toolkit\n")
    assert "## Measured performance" in readme
    settings: dict[str, Any] = {"cache": cohort.cache, "device": "cpu", "pages": False}
    for folder in ("eval", "hub-folder"):
        assert predict.run(PredictConfig(bundle=tmp_path / folder, out=tmp_path / f"p-{folder}", **settings)) == 0
    tables = [(tmp_path / f"p-{folder}" / "predictions.csv").read_bytes() for folder in ("eval", "hub-folder")]
    assert tables[0] == tables[1]


def test_what_is_no_bundle_or_no_new_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a bundle and contains none"):
        export.run(ExportConfig(source=tmp_path, to="hub-folder", out=tmp_path / "out"))
    with pytest.raises(UsageError, match="--out: got nothing"):
        ExportConfig(source=tmp_path, to="trident")
