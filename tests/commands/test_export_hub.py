"""`slpd export eval/a --to hub-folder`: a bundle that a hub takes as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slpd_toolkit.commands import export, predict
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.representations.exports.hub import write_hub_folder
from tests.evaluations import metrics, plant, two_classes

if TYPE_CHECKING:
    from collections.abc import Sequence


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


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `eval/` and `of=anna/cache/`: sites, a covariate, and a slide that is not in the cache."""
    folder = tmp_path_factory.mktemp("evaluated")
    labels = ["ab"[number % 2] for number in range(20)]
    sites = [["n", "s", ""][number // 2 % 3] for number in range(20)]
    columns: dict[str, Sequence[object]] = {"label": labels, "site": sites, "age": range(40, 60)}
    cohort = plant(folder / "of=anna", columns, [6.0 * (label == "b") for label in labels])
    (cohort.cache / "s003.h5").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text(""))
        cohort.evaluate(folder / "eval", aggregator=("probe",), folds=3, allow_missing=True, covariates=("age",))
    return folder


@pytest.fixture
def bundle(evaluation: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluation / "eval" / "model", tmp_path / "model"))


def test_the_card_has_what_was_measured_and_no_file_has_a_local_path(
    evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = metrics(evaluation / "eval")["results"]
    export.run(ExportConfig(source=evaluation / "eval", to="hub-folder", out=tmp_path / "hub"))
    assert "may name slides, patients and sites" in " ".join(capsys.readouterr().err.split())
    for path in [*(evaluation / "eval" / "model").iterdir(), *(tmp_path / "hub").glob("[!.]*")]:
        content = path.read_bytes()
        assert not any(part.encode() in content for part in (str(evaluation), "of=anna", "anna/")), path
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "**sites**: 2: n (8 slides), s (5 slides); 6 of unknown site" in card
    assert "1 slide is not in the cache cache: s003." in card
    sensitivity = result["calibration"]["estimates"]["sensitivity"]
    assert f"| sensitivity | {sensitivity['mean']:.3f} |" in card
    assert "| ECE, scaled |" in card
    assert "mean-tokens: the site is" in card
    assert "`slpd predict` does not use age." in card
    settings: dict[str, Any] = {"cache": evaluation / "of=anna" / "cache", "device": "cpu", "pages": False}
    assert predict.run(PredictConfig(bundle=tmp_path / "hub", out=tmp_path / "out", **settings)) == 0
    assert "`slpd predict` does not use age." in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("card", "header"), [("---\nlicense: mit\n---\n# T", "---\nlicense"), ("# T", "---\nlibrary")])
def test_an_edited_card_keeps_its_own_header(bundle: Path, tmp_path: Path, card: str, header: str) -> None:
    (bundle / "MODEL_CARD.md").write_text(card)
    write_hub_folder(bundle, tmp_path / "hub")
    readme = (tmp_path / "hub" / "README.md").read_text()
    assert readme.startswith(header)
    assert readme.count("---\n") == 2


@pytest.mark.parametrize(("card", "message"), [(b"\xff\xfe", "cannot be read .*utf-8"), (None, "is missing")])
def test_a_card_that_cannot_be_read_is_refused(bundle: Path, tmp_path: Path, card: bytes | None, message: str) -> None:
    (bundle / "MODEL_CARD.md").unlink()
    if card is not None:
        (bundle / "MODEL_CARD.md").write_bytes(card)
    with pytest.raises(UsageError, match=message):
        write_hub_folder(bundle, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_what_is_no_bundle_or_no_new_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a bundle and contains none"):
        export.run(ExportConfig(source=tmp_path, to="hub-folder", out=tmp_path / "out"))
    with pytest.raises(UsageError, match="--out: got nothing"):
        ExportConfig(source=tmp_path, to="trident")
