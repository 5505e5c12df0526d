"""`--external`: planted pairs of cohorts with a known shift, and what two cohorts share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from tests.cohorts import read_csv
from tests.evaluations import Planted, plant, rewrite
from tests.token_factory import write_slide

if TYPE_CHECKING:
    from pathlib import Path

QUICK: dict[str, Any] = {"aggregator": ("probe",), "folds": 3}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text("<html/>")
    )


def cohort(
    folder: Path, slides: int, shift: float, *, bias: float = 0.0, seed: int = 0, **columns: list[str]
) -> Planted:
    """Classes a and b in turn; those of b are moved by `shift`, and all slides by `bias`."""
    labels = ["ab"[number % 2] for number in range(slides)]
    return plant(folder, {"label": labels, **columns}, [shift * (label == "b") + bias for label in labels], seed=seed)


def external(one: Planted, other: Planted, out: Path, **changes: Any) -> dict[str, Any]:
    found = one.evaluate(out, external=(str(other.cache),), external_manifest=other.manifest, **(QUICK | changes))
    result: dict[str, Any] = found["external"]
    return result


@pytest.mark.slow
def test_a_cohort_of_the_same_kind_shows_no_drop_and_one_without_signal_does(tmp_path: Path) -> None:
    one = cohort(tmp_path / "a", 36, 0.35)
    same = external(one, cohort(tmp_path / "b", 40, 0.35, seed=1), tmp_path / "same")
    none = external(one, cohort(tmp_path / "c", 40, 0.0, seed=2), tmp_path / "none")
    (held,), (lost,) = same["results"], none["results"]
    assert held["metrics"]["auc"]["drop"]["low"] < 0 < held["metrics"]["auc"]["drop"]["high"]
    assert lost["metrics"]["auc"]["drop"]["low"] > 0.1
    low, high = lost["metrics"]["auc"]["low"], lost["metrics"]["auc"]["high"]
    assert low < 0.5 < high
    assert len(held["metrics"]["auc"]["per_head"]) == 3
    assert same["cohort"] == {"slides": 40, "patients": 40}


@pytest.mark.slow
def test_a_shift_of_all_slides_keeps_the_auc_and_breaks_the_threshold(tmp_path: Path) -> None:
    one, other = cohort(tmp_path / "a", 40, 4.0), cohort(tmp_path / "b", 40, 4.0, bias=-4.0, seed=1)
    (result,) = external(one, other, tmp_path / "out")["results"]
    assert result["metrics"]["auc"]["ensemble"]["value"] > 0.95
    inside, kept, tuned = result["thresholds"]
    assert inside["sensitivity"]["value"] > 0.9
    assert kept["sensitivity"]["value"] < 0.2
    assert tuned["sensitivity"]["value"] > 0.9
    drop = result["metrics"]["auc"]["drop"]  # all replicates are equal: the interval rests on those of both cohorts
    assert (drop["value"], drop["low"] < -0.05, drop["high"] > 0.05) == (0, True, True)
    assert tuned["threshold"] < kept["threshold"] == inside["threshold"]
    before, after = (result["calibration"]["Brier score"][name]["value"] for name in ("internal", "external"))
    assert after > before + 0.2


@pytest.mark.slow
def test_every_head_and_the_ensemble_are_written_for_every_slide_and_sites_have_rows(tmp_path: Path) -> None:
    one = cohort(tmp_path / "a", 24, 3.0)
    sites = [("north", "south")[number // 2 % 2] for number in range(20)]
    found = external(one, cohort(tmp_path / "b", 20, 3.0, seed=1, site=sites), tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "external_predictions.csv")
    assert len(rows) == 20 * 4
    assert {row["repeat"] for row in rows} == {"0", "ensemble"}
    (result,) = found["results"]
    assert [(site["site"], site["slides"]) for site in result["sites"]] == [("north", 10), ("south", 10)]
    assert all(site["headline"]["value"] > 0.8 for site in result["sites"])
    card = (tmp_path / "out" / "model" / "MODEL_CARD.md").read_text()
    assert "## External cohort" in card
    assert "| south | 10 | 10 |" in card


@pytest.mark.slow
def test_what_both_cohorts_share_is_found(tmp_path: Path) -> None:
    one = cohort(tmp_path / "a", 24, 3.0)
    again = external(one, cohort(tmp_path / "b", 24, 3.0), tmp_path / "out")  # the same slides
    (audit,) = again["audit"].values()
    assert not audit["clean"]
    assert len(audit["slides"]) == len(audit["patients"]) == len(audit["equal_embeddings"]) == 24
    other = cohort(tmp_path / "c", 24, 3.0, seed=1)
    (audit,) = external(one, other, tmp_path / "other")["audit"].values()
    assert (audit["equal_embeddings"], audit["near_copies"]) == ([], [])


@pytest.mark.slow
def test_survival_is_judged_at_the_times_of_the_other_cohort(tmp_path: Path) -> None:
    def follow_up(folder: Path, seed: int, stretch: float) -> Planted:
        rng = np.random.default_rng(seed)
        risks = rng.normal(size=36)
        times = np.exp(-risks) * stretch
        columns = {"time": times.tolist(), "event": (rng.random(36) < 0.8).astype(int).tolist()}
        return plant(folder, columns, (3 * risks).tolist(), seed=seed)

    one, other = follow_up(tmp_path / "a", 0, 1.0), follow_up(tmp_path / "b", 1, 5.0)
    (result,) = external(one, other, tmp_path / "out", task="survival")["results"]
    assert result["metrics"]["c_index"]["mean"] > 0.8
    assert result["metrics"]["integrated_brier_score"]["mean"] > 0
    assert result["thresholds"] == [] == list(result["calibration"])


@pytest.mark.slow
def test_wrong_external_cohorts_are_refused_before_work(tmp_path: Path) -> None:
    one, other, out = cohort(tmp_path / "a", 24, 3.0), cohort(tmp_path / "b", 8, 3.0, seed=1), tmp_path / "out"

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(UsageError, match=message):
            one.evaluate(out, **(QUICK | changes))
        assert not (out / "metrics.json").exists()

    both = {"external": (str(other.cache),), "external_manifest": other.manifest}
    refused("--external with --external-manifest", external=(str(other.cache),))
    refused("does not exist", external=("absent",), external_manifest=other.manifest)
    rewrite(
        other.manifest,
        lambda rows: [row | {"label": "z" if number == 3 else row["label"]} for number, row in enumerate(rows)],
    )
    refused(r"1 external slide is of classes that the training cohort does not have: z \(such as s003\)", **both)
    rewrite(other.manifest, lambda rows: [{"slide_id": row["slide_id"], "grade": "1"} for row in rows])
    refused("--external-manifest: column label not found", **both)
    rewrite(other.manifest, lambda rows: [{"slide_id": f"x{row['slide_id']}", "label": "a"} for row in rows])
    refused("no slide has both a target and an embedding", **both)
    (other.manifest).write_text("slide_id,label\n")
    refused("has no slides", **both)
    wide = plant(tmp_path / "w", {"label": ["a", "b"]}, [0.0, 1.0])
    for path in wide.cache.iterdir():
        path.unlink()
    for name in ("s000", "s001"):
        write_slide(wide.cache, name, np.zeros((1, 2, 2, 8)), encoder="another")
    refused(
        "encoder: 'planted' in the training cohort, 'another' in the external one",
        external=(str(wide.cache),),
        external_manifest=wide.manifest,
    )


@pytest.mark.slow
def test_a_regression_is_validated_predicted_and_resumed_after_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends a run at several moments; the same command then gives the same files."""
    from slpd_toolkit.commands import mil_eval, predict
    from slpd_toolkit.config.predict import PredictConfig
    from slpd_toolkit.report import evaluation_folder

    def heights(folder: Path, slides: int, seed: int) -> Planted:
        values = np.random.default_rng(seed).normal(10, 2, slides)
        return plant(folder, {"height": [f"{value:.3f}" for value in values]}, (values - 10).tolist(), seed=seed)

    one, other = heights(tmp_path / "a", 30, 0), heights(tmp_path / "b", 24, 1)
    settings: dict[str, Any] = {"task": "regression", "target": ("height",)}
    result = external(one, other, tmp_path / "whole", **settings)["results"][0]
    assert result["metrics"]["spearman"]["ensemble"]["value"] > 0.8
    assert result["metrics"]["mae"]["drop"]["low"] < result["metrics"]["mae"]["drop"]["high"]
    assert (result["thresholds"], result["calibration"]) == ([], {})
    page = (tmp_path / "whole" / "model" / "MODEL_CARD.md").read_text()
    assert "## External cohort" in page

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for module, name in (
        (mil_eval, "evaluate_models"),
        (mil_eval, "validate"),
        (evaluation_folder, "write_scores"),
        (evaluation_folder, "write_bundle"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                external(one, other, tmp_path / "killed", **settings)
        assert not (tmp_path / "killed" / "report.html").exists()
    external(one, other, tmp_path / "killed", **settings)
    for name in ("external_predictions.csv", "predictions.csv", "model/heads.safetensors", "model/SHA256SUMS"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "whole" / "model").rename(tmp_path / "moved")
    config = PredictConfig(bundle=tmp_path / "moved", cache=other.cache, out=tmp_path / "p", device="cpu")
    assert predict.run(config) == 0
    found = {row["slide_id"]: float(row["predicted"]) for row in read_csv(tmp_path / "p" / "predictions.csv")}
    wanted = {
        row["slide_id"]: float(row["predicted"])
        for row in read_csv(tmp_path / "killed" / "external_predictions.csv")
        if row["repeat"] == "ensemble"
    }
    assert found == pytest.approx(wanted)
    assert "predicted" in (tmp_path / "p" / "pages" / "s000.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:0], "manifest.csv cannot be read as UTF-8 CSV"),
        (
            lambda rows: [row | {"height": "tall"} for row in rows],
            r"--external-manifest, height: 24 slides have no valid height: s000 \('tall'\)",
        ),
        (lambda rows: [row | {"height": ""} for row in rows], "no slide has both a target and an embedding"),
    ],
)
def test_external_numbers_that_cannot_be_used_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    numbers = [f"{number}" for number in range(24)]
    one, other = (plant(tmp_path / name, {"height": numbers}, [0.0] * 24) for name in "ab")
    rewrite(other.manifest, change)
    with pytest.raises(UsageError, match=message):
        external(one, other, tmp_path / "out", task="regression", target=("height",))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_one_class_only_and_slides_without_a_site_are_noted(tmp_path: Path) -> None:
    sites = ["", *["north"] * 11]
    one, other = cohort(tmp_path / "a", 18, 1.0), cohort(tmp_path / "b", 12, 1.0, seed=1, site=sites)
    rewrite(other.manifest, lambda rows: [row | {"label": "a"} for row in rows])
    found = external(one, other, tmp_path / "out")
    (result,) = found["results"]
    assert [site["site"] for site in result["sites"]] == ["north"]
    said = " ".join(found["notes"])
    assert "1 external slide has no site: s000." in said
    assert "auc is undefined in the external cohort, in which all slides have the label a." in said
    assert "No interval" not in said


@pytest.mark.slow
def test_one_site_only_has_one_row(tmp_path: Path) -> None:
    one, other = cohort(tmp_path / "a", 18, 1.0), cohort(tmp_path / "b", 12, 1.0, seed=1, site=["north"] * 12)
    (result,) = external(one, other, tmp_path / "out")["results"]
    assert [site["site"] for site in result["sites"]] == ["north"]
    with pytest.raises(UsageError, match="column site not found"):
        one.evaluate(tmp_path / "sites", by_site=True, **QUICK)
