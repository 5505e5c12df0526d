"""`slpd mil-eval` with several targets, several labels, and covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import slpd_toolkit as slpd
from slpd_toolkit.commands import predict
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.statistics.paired_tests import holm
from tests.cohorts import read_csv
from tests.evaluations import Planted, metrics, plant, rewrite

if TYPE_CHECKING:
    from pathlib import Path

N = 48
RNG = np.random.default_rng(0)
ER = np.array(["neg", "pos"])[RNG.permutation(N) % 2]
PR = np.array(["0", "1"])[RNG.permutation(N) % 2]
AGE = 60 + 10 * RNG.normal(size=N) + 12 * (PR == "1")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    columns = {
        "er": ["" if row < 2 else cell for row, cell in enumerate(ER)],
        "pr": ["" if 2 <= row < 5 else cell for row, cell in enumerate(PR)],
        "age": ["" if row % 9 == 0 else f"{age:.0f}" for row, age in enumerate(AGE)],
        "stage": RNG.choice(["I", "II", ""], N).tolist(),
        "one": ["x"] * N,
        "time": RNG.exponential(size=N).tolist(),
        "event": (RNG.random(N) < 0.7).astype(int).tolist(),
    }
    return plant(tmp_path_factory.mktemp("targets"), columns, 0.9 * (ER == "pos"))


@pytest.fixture(scope="module")
def several(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "eval"
    planted.evaluate(
        out,
        target=("er", "pr"),
        model=("mean-tokens", "described=mean-tokens#mean-sd"),
        aggregator=("probe",),
        covariates=("age,stage",),
    )
    return out


@pytest.mark.slow
def test_targets_share_their_folds_and_lack_only_unlabelled_slides(several: Path) -> None:
    parts = {
        target: {(row["fold"], row["slide_id"]): row["part"] for row in read_csv(several / target / "folds.csv")}
        for target in ("er", "pr")
    }
    both = parts["er"].keys() & parts["pr"].keys()
    assert len(both) == 4 * (N - 5)
    assert all(parts["er"][key] == parts["pr"][key] for key in both)
    assert {slide for _, slide in parts["er"]} == {f"s{row:03}" for row in range(2, N)}
    assert {slide for _, slide in parts["pr"]} == {f"s{row:03}" for row in range(N) if not 2 <= row < 5}
    notes = metrics(several / "er")["notes"]
    assert "2 slides have no er and do not count for it: s000, s001." in notes


@pytest.mark.slow
def test_p_values_are_adjusted_over_all_targets(several: Path) -> None:
    found = [metrics(several / target) for target in ("er", "pr")]
    pairs = [pair for each in found for pair in each["comparisons"]]
    raw = [pair["metrics"]["auc"]["shared_training"]["p"] for pair in pairs]
    assert [pair["adjusted_p"]["shared_training"] for pair in pairs] == pytest.approx(holm(np.array(raw)).tolist())
    assert found[0]["correction"] == "Holm over 2 comparisons of all targets, each test by itself"
    gains = [each for one in found for each in one["covariates"]["results"]]
    raw = [each["slide_adds"]["auc"]["shared_training"]["p"] for each in gains]
    assert [each["adjusted_p"] for each in gains] == pytest.approx(holm(np.array(raw)).tolist())


@pytest.mark.slow
def test_one_table_has_all_targets(several: Path) -> None:
    rows = read_csv(several / "targets.csv")
    assert [(row["target"], row["model"]) for row in rows] == [
        ("er", "mean-tokens"), ("er", "described"), ("pr", "mean-tokens"), ("pr", "described")
    ]  # fmt: skip
    raw = np.array([float(row["p_chance"]) for row in rows])
    np.testing.assert_allclose([float(row["p_chance_adjusted"]) for row in rows], holm(raw))
    page = (several / "report.html").read_text()
    assert 'href="er/report.html"' in page
    assert "1 of 2 targets are predicted better than by guessing (Holm-adjusted p &lt; 0.05): er." in page
    result = slpd.EvaluationResult.open(several)
    assert list(result.targets) == ["er", "pr"]
    assert result.table.groupby("target").size().tolist() == [10, 10]
    assert result.headline == "auc"


@pytest.mark.slow
def test_the_slide_adds_to_the_covariates_where_it_does(several: Path) -> None:
    er, pr = (metrics(several / target)["covariates"] for target in ("er", "pr"))
    assert [(each["name"], each["kind"]) for each in er["columns"]] == [("age", "number"), ("stage", "classes")]
    assert er["results"][0]["slide_adds"]["auc"]["interval"]["low"] > 0
    assert pr["results"][0]["slide_adds"]["auc"]["interval"]["low"] < 0.05
    assert pr["results"][0]["covariates_add"]["auc"]["difference"] > 0
    assert (
        "The slide adds to the covariates (conservative Holm-adjusted p" in (several / "er" / "report.html").read_text()
    )
    assert "Does the slide add information" in (several / "pr" / "report.html").read_text()
    predicted = {row["predicted_from"] for row in read_csv(several / "er" / "covariates.csv")}
    assert predicted == {"covariates", "slide and covariates"}


@pytest.mark.slow
def test_labels_of_test_slides_have_no_influence_on_their_fusion(planted: Planted, tmp_path: Path) -> None:
    """Swap the targets of the test slides of fold 0: predictions of fold 0 stay, to the last digit."""
    settings = {"target": ("pr",), "aggregator": ("probe",), "covariates": ("age", "stage"), "allow_missing": True}
    one = Planted(planted.cache, tmp_path / "one.csv")
    rows = read_csv(planted.manifest)
    folds = {slide: str(number % 4) for number, slide in enumerate(row["slide_id"] for row in rows)}

    def write(manifest: Path, *, swapped: bool) -> None:
        manifest.write_text(planted.manifest.read_text())
        swap = {"0": "1", "1": "0", "": ""}
        rewrite(
            manifest,
            lambda rows: [
                row
                | {
                    "fold": folds[row["slide_id"]],
                    "pr": swap[row["pr"]] if swapped and folds[row["slide_id"]] == "0" else row["pr"],
                }
                for row in rows
            ],
        )

    found = []
    for swapped in (False, True):
        write(one.manifest, swapped=swapped)
        out = tmp_path / str(swapped)
        one.evaluate(out, fold_column="fold", folds=None, repeats=None, **settings)
        rows = [row for row in read_csv(out / "covariates.csv") if row["fold"] == "0"]
        found.append([(row["slide_id"], row["predicted_from"], row["probability_1"]) for row in rows])
    assert found[0]
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["survival", "regression"])
def test_covariates_of_other_tasks(planted: Planted, tmp_path: Path, task: str) -> None:
    target = {"target": ("age",), "allow_missing": True} if task == "regression" else {}
    covariates = ("pr",) if task == "regression" else ("age", "stage")
    found = planted.evaluate(tmp_path / "out", task=task, aggregator=("probe",), covariates=covariates, **target)
    (result,) = found["covariates"]["results"]
    headline = found["task"]["headline"]
    arms = [result[name][headline]["mean"] for name in ("slide_and_covariates", "covariates")]
    assert result["slide_adds"][headline]["difference"] == pytest.approx(arms[0] - arms[1])


@pytest.mark.slow
def test_one_head_predicts_several_labels(planted: Planted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = planted.evaluate(
        out, task="multilabel", target=("er", "pr"), aggregator=("probe", "knn", "abmil"), steps=10
    )
    assert found["results"][0]["metrics"].keys() == {"auc", "balanced_accuracy", "auc er=pos", "auc pr=1"}
    assert found["results"][0]["metrics"]["auc er=pos"]["mean"] > 0.8
    assert (out / "figures" / "roc-labels-knn.svg").exists()
    config = PredictConfig(
        bundle=out, aggregator="probe", cache=planted.cache, out=tmp_path / "predicted", device="cpu", pages=False
    )
    assert predict.run(config) == 0
    rows = read_csv(tmp_path / "predicted" / "predictions.csv")
    called = ["er=pos" in row["decision"] for row in rows]
    assert np.mean(np.array(called) == (ER == "pos")) > 0.8
    again = {(r["repeat"], r["fold"], r["slide_id"]): r for r in read_csv(tmp_path / "predicted" / "heads.csv")}
    for row in read_csv(out / "predictions.csv"):
        if row["aggregator"] == "probe":
            repeated = again[row["repeat"], row["fold"], row["slide_id"]]
            assert repeated["probability_er=pos"] == row["probability_er=pos"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "multilabel", "target": ("er",)},
            "--target with --task multilabel: got er, allowed: several columns",
        ),
        ({"task": "survival", "target": ("er", "pr")}, "--target with --task survival: got er, pr, allowed: --time"),
        ({"target": ("er",), "covariates": ("er",)}, "--covariates: got er, allowed: columns other than the targets"),
        ({"target": ("er",), "covariates": (",",)}, "--covariates: got ,, allowed: columns other than the targets"),
        ({"target": ("er", "one")}, "one: Classes with slides: x; requested classes: x"),
        ({"target": ("er", "er")}, "--target: got er more than once"),
        ({"target": ("er", "HER2")}, "column HER2 not found"),
        ({"target": ("er",), "covariates": ("grade",)}, "column grade not found"),
        ({"target": ("er", "stage"), "folds": 23}, "at least 23 patients per class"),
        (
            {"task": "regression", "target": ("stage",)},
            "slides have no valid stage: .*Allowed: a number from -1e30 to 1e30",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_work(
    planted: Planted, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        planted.evaluate(tmp_path / "out", **{"allow_missing": True, **changes})
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.h*")), error


@pytest.mark.slow
def test_folders_of_one_and_of_several_targets_are_not_mixed(several: Path, planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has an evaluation of several targets"):
        planted.evaluate(several, target=("er",), allow_missing=True)
    with pytest.raises(UsageError, match="has evaluations of several targets: er, pr"):
        predict.run(PredictConfig(bundle=several, cache=planted.cache, out=tmp_path / "p", device="cpu"))
