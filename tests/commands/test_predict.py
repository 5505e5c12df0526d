"""`slpd predict`: from tokens, vectors and pixels; what it refuses; kills."""

from __future__ import annotations

import dataclasses
import json
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slpd_toolkit.commands import embed, predict
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.mil.bundle.reading import read_bundle
from slpd_toolkit.report import prediction_folder
from slpd_toolkit.report.scores import read_scores
from slpd_toolkit.representations.bundled import is_masked, mask_warning, tokens_of
from slpd_toolkit.store.token_file import TokenFile
from tests.cohorts import read_csv, small_config, write_cohort, write_manifest
from tests.evaluations import Planted, two_classes
from tests.token_factory import write_slide

QUICK: dict[str, Any] = {"steps": 20, "aggregator": ("abmil",), "folds": 3}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return two_classes(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def evaluation(cohort: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "eval"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text("<html/>"))
        cohort.evaluate(out, final=True, **QUICK)
    return out


def run(bundle: Path, out: Path, **settings: Any) -> int:
    return predict.run(PredictConfig(bundle=bundle, out=out, **{"device": "cpu", "pages": False, **settings}))


def contents(folder: Path) -> dict[str, bytes]:
    """All files that `slpd predict` wrote, but for its settings and stored embeddings, which hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != "recipe.toml"
        and "region_embeddings" not in path.parts
        and not path.name.startswith(".")
    }


@pytest.mark.slow
def test_each_fold_repeats_the_predictions_of_the_report(evaluation: Path, cohort: Planted, tmp_path: Path) -> None:
    assert run(evaluation, tmp_path / "out", cache=cohort.cache) == 0
    heads = {(row["repeat"], row["fold"], row["slide_id"]): row for row in read_csv(tmp_path / "out" / "heads.csv")}
    reported = read_csv(evaluation / "predictions.csv")
    assert len(reported) == 24
    for row in reported:
        again = heads[row["repeat"], row["fold"], row["slide_id"]]
        assert (again["probability_a"], again["probability_b"]) == (row["probability_a"], row["probability_b"])


@pytest.mark.slow
def test_the_tables_say_what_was_predicted(evaluation: Path, cohort: Planted, tmp_path: Path) -> None:
    rows = [{"slide_id": slide, "patient_id": f"of-{slide}"} for slide in ("s003", "s000")]
    manifest = write_manifest(tmp_path / "new.csv", rows)
    out = tmp_path / "out"
    assert run(evaluation / "model", out, cache=cohort.cache, manifest=manifest, pages=True) == 0
    found = read_csv(out / "predictions.csv")
    assert [(row["slide_id"], row["patient_id"], row["decision"]) for row in found] == [
        ("s000", "of-s000", "a"),
        ("s003", "of-s003", "b"),
    ]
    for row in found:
        assert float(row["probability_a"]) + float(row["probability_b"]) == pytest.approx(1)
        assert float(row["sd_probability_b"]) >= 0
        assert row["far_from_training"] == ("yes" if float(row["distance"]) > float(row["distance_limit"]) else "no")
    (table,) = read_scores(out / "scores.h5")  # as `slpd heatmap` reads it
    assert table.slide_ids == ("s000", "s003")
    assert table.slide(0).scores.sum() == pytest.approx(1)
    page = (out / "pages" / "s003.html").read_text()
    assert "Decision: b" in page
    assert "data:image/png" in page
    assert "False-alarm rate on 24 held-out training slides" in page
    assert 'href="s003.html"' in (out / "pages" / "index.html").read_text()
    assert read_csv(out / "failures.csv") == []


@pytest.mark.slow
def test_a_moved_bundle_and_other_slides_beside_change_no_byte(
    evaluation: Path, cohort: Planted, tmp_path: Path
) -> None:
    shutil.copytree(evaluation / "model", tmp_path / "elsewhere")
    manifest = write_manifest(tmp_path / "one.csv", [{"slide_id": "s007"}])
    run(tmp_path / "elsewhere", tmp_path / "one", cache=cohort.cache, manifest=manifest)
    run(evaluation, tmp_path / "all", cache=cohort.cache)
    (alone,) = read_csv(tmp_path / "one" / "predictions.csv")
    assert alone in read_csv(tmp_path / "all" / "predictions.csv")


@pytest.mark.slow
def test_a_slide_of_another_kind_is_marked(evaluation: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    tokens = np.random.default_rng(5).standard_normal((3, 2, 2, 8))
    write_slide(cache, "usual", tokens)
    write_slide(cache, "unusual", tokens + np.linspace(-30, 30, 8))
    run(evaluation, tmp_path / "out", cache=cache)
    found = {row["slide_id"]: row["far_from_training"] for row in read_csv(tmp_path / "out" / "predictions.csv")}
    assert found == {"usual": "no", "unusual": "yes"}


def test_the_final_head_is_used_on_request(evaluation: Path, cohort: Planted, tmp_path: Path) -> None:
    run(evaluation, tmp_path / "out", cache=cohort.cache, final=True)
    heads = read_csv(tmp_path / "out" / "heads.csv")
    assert {row["repeat"] for row in heads} == {"final"}
    assert all(row["sd_probability_a"] == "" for row in read_csv(tmp_path / "out" / "predictions.csv"))


def test_one_bad_slide_does_not_end_the_run(evaluation: Path, cohort: Planted, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(cohort.cache, cache)
    cut = cache / "s000.h5"
    cut.write_bytes(cut.read_bytes()[:-40])
    changed = cache / "s001.h5"
    content = bytearray(changed.read_bytes())
    content[TokenFile.open(changed).tokens_offset] ^= 1
    changed.write_bytes(content)
    write_slide(cache, "other", np.zeros((2, 2, 2, 8)), encoder="another")
    manifest = write_manifest(tmp_path / "new.csv", [{"slide_id": f"s{n:03}"} for n in range(4)] + [
        {"slide_id": "absent"}, {"slide_id": "other"}
    ])  # fmt: skip
    assert run(evaluation, tmp_path / "out", cache=cache, manifest=manifest) == 1
    failed = {row["slide_id"]: row["error"] for row in read_csv(tmp_path / "out" / "failures.csv")}
    assert failed.keys() == {"s000", "s001", "absent", "other"}
    assert "encoder: 'planted' in the bundle, 'another' here" in failed["other"]
    assert [row["slide_id"] for row in read_csv(tmp_path / "out" / "predictions.csv")] == ["s002", "s003"]


def test_pages_of_slides_that_fail_in_a_second_run_are_removed(
    evaluation: Path, cohort: Planted, tmp_path: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    shutil.copytree(cohort.cache, cache)
    manifest = write_manifest(tmp_path / "new.csv", [{"slide_id": "s002"}, {"slide_id": "s003"}])
    assert run(evaluation, out, cache=cache, manifest=manifest, pages=True) == 0
    (out / "pages" / "own.html").write_text("of the user")
    (cache / "s003.h5").write_bytes(b"")
    assert run(evaluation, out, cache=cache, manifest=manifest, pages=True) == 1
    assert {path.name for path in (out / "pages").iterdir()} == {"index.html", "own.html", "s002.html"}
    (cache / "s002.h5").write_bytes(b"")
    with pytest.raises(SlpdError, match=r"No slide could be predicted\. s00\d: \S+"):
        run(evaluation, out, cache=cache, manifest=manifest, pages=True)
    assert [path.name for path in (out / "pages").iterdir()] == ["own.html"]
    assert not (out / "predictions.csv").exists()
    assert read_csv(out / "heads.csv") == []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"encoder": "another"}, "encoder: 'planted' in the bundle, 'another' here"),
        ({"target_mpp": 0.25}, "target_mpp: 0.5 in the bundle, 0.25 here"),
        ({"encoder_sha256": "1" * 64}, "encoder_sha256: '0000.*in the bundle, '1111"),
    ],
)
def test_another_encoder_resolution_or_geometry_is_refused(
    evaluation: Path, tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    write_slide(cache, "s", np.zeros((2, 2, 2, 8)), **attributes)
    with pytest.raises(UsageError, match=message):
        run(evaluation, tmp_path / "out", cache=cache)
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.slow
def test_a_killed_run_resumes_to_equal_bytes(
    evaluation: Path, cohort: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"cache": cohort.cache, "pages": True}
    run(evaluation, tmp_path / "whole", **settings)
    for name in ("write_score_tables", "slide_page", "index_page"):
        with monkeypatch.context() as patch:

            def killed(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(prediction_folder, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run(evaluation, tmp_path / "killed", **settings)
        assert not (tmp_path / "killed" / "predictions.csv").exists()
    run(evaluation, tmp_path / "killed", **settings)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_cannot_be_used_is_refused_before_work(
    evaluation: Path, cohort: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="manifest: got nothing, allowed: a CSV of slides"):
        run(evaluation, out)
    with pytest.raises(UsageError, match="only one of them"):
        run(evaluation, out, cache=cohort.cache, vectors=Path("x.npz"))
    with pytest.raises(UsageError, match="trained on the regions of slides"):
        run(evaluation, out, vectors=Path("x.npz"))
    with pytest.raises(UsageError, match="is not a bundle"):
        run(tmp_path, out, cache=cohort.cache)
    (tmp_path / "cohort.csv").write_text("slide_id\n")
    with pytest.raises(UsageError, match=r"cohort\.csv has no slides"):
        run(evaluation, out, cache=cohort.cache, manifest=tmp_path / "cohort.csv")
    with pytest.raises(SlpdError, match="No slide could be predicted"):
        run(evaluation, out, cache=cohort.cache, manifest=write_manifest(tmp_path / "m.csv", [{"slide_id": "x"}]))


@pytest.mark.slow
def test_no_results_of_other_commands_and_no_input_are_overwritten(
    evaluation: Path, cohort: Planted, several: Path, tmp_path: Path
) -> None:
    before = (evaluation / "predictions.csv").read_bytes()
    for folder, what in (
        (evaluation, r"an evaluation of `slpd mil-eval` \(folds\.csv\)"),
        (evaluation / "model", "a bundle"),
    ):
        with pytest.raises(UsageError, match=f"--out: .* has {what}.*, whose files would be overwritten"):
            run(evaluation, folder, cache=cohort.cache)
    assert (evaluation / "predictions.csv").read_bytes() == before
    with pytest.raises(UsageError, match=r"holds the input predictions\.csv"):
        run(several, tmp_path / "out", vectors=tmp_path / "out" / "predictions.csv", aggregator="knn")
    with pytest.raises(UsageError, match=r"holds the input \."):
        run(evaluation, cohort.cache, cache=cohort.cache)


@pytest.mark.slow
def test_ids_that_cannot_name_a_file_fail_and_the_others_are_predicted(several: Path, tmp_path: Path) -> None:
    odd = ["=cmd()", "../x", "a\nb", "<b>", ".."]
    np.savez(tmp_path / "odd.npz", slide_id=[*odd, "fine"], vectors=np.zeros((6, 5)))
    assert run(several, tmp_path / "out", vectors=tmp_path / "odd.npz", aggregator="knn", pages=True) == 1
    assert [row["slide_id"] for row in read_csv(tmp_path / "out" / "predictions.csv")] == ["fine"]
    assert len(read_csv(tmp_path / "out" / "failures.csv")) == len(odd)
    index = unescape((tmp_path / "out" / "pages" / "index.html").read_text())
    for failed in read_csv(tmp_path / "out" / "failures.csv"):
        assert f"{failed['error']} {failed['hint']}" in index
    page = (tmp_path / "out" / "pages" / "fine.html").read_text()
    assert "The decision is b if its probability is at least 0." in page
    np.savez(tmp_path / "none.npz", slide_id=np.array([], str), vectors=np.zeros((0, 5)))
    with pytest.raises(UsageError, match="has no slides"):
        run(several, tmp_path / "none", vectors=tmp_path / "none.npz", aggregator="knn")


def test_masks_of_training_slides_are_asked_for_and_other_masks_are_named(tmp_path: Path) -> None:
    for name, mask in (("plain", ""), ("masked", '{"mode": "only"}')):
        (tmp_path / name).mkdir()
        write_slide(tmp_path / name, "s", np.zeros((2, 2, 2, 8)), mask=mask)
    plain, masked = (TokenFile.open(tmp_path / name / "s.h5") for name in ("plain", "masked"))
    assert (is_masked([plain]), is_masked([plain, masked])) == (False, True)
    assert mask_warning([plain], trained=False) == mask_warning([masked], trained=True) == ""
    assert "but not those of 1 slide: s. Its prediction may" in mask_warning([masked, plain], trained=True)
    assert "but not those of the training slides" in mask_warning([plain, masked], trained=False)
    stored = {"mask_mode": "and", "mask_classes": "Tumor", "mask_crop": True, "min_tissue": 0.1}
    meta = dataclasses.replace(masked.meta, source="", recipe=json.dumps(stored))
    assert tokens_of(meta, masked=False)[1] == {"min_tissue": 0.1}
    assert tokens_of(meta, masked=True)[1] == {key: stored[key] for key in ("min_tissue", *list(stored)[:3])}


def test_slides_without_masks_are_refused_where_training_slides_had_them(
    evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(evaluation / "model")
    origin = dataclasses.replace(bundle.origin, recipe={**bundle.origin.recipe, "mask_mode": "only"})
    monkeypatch.setattr(predict, "read_bundle", lambda _: dataclasses.replace(bundle, origin=origin))
    manifest = write_manifest(tmp_path / "new.csv", [{"slide_id": "x", "slide_path": "x.svs"}])
    with pytest.raises(UsageError, match=r"masks \(--mask-mode only\), but .*new\.csv has no column mask_path"):
        run(evaluation, tmp_path / "out", manifest=manifest)


def test_with_too_few_training_slides_the_distance_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text(""))
    few = two_classes(tmp_path, slides=12)
    few.evaluate(tmp_path / "eval", aggregator=("probe",), folds=3)
    assert run(tmp_path / "eval", tmp_path / "out", cache=few.cache) == 0
    assert {row["far_from_training"] for row in read_csv(tmp_path / "out" / "predictions.csv")} == {"unknown"}
    assert "12 held-out slides are too few to calibrate it" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def several(cohort: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text(""))
    vectors = tmp_path / "vectors.npz"
    rng = np.random.default_rng(0)
    names = [f"s{number:03}" for number in range(24)]
    np.savez(vectors, slide_id=names, vectors=np.arange(24)[:, None] % 2 * 4 + rng.normal(size=(24, 5)))
    cohort.evaluate(tmp_path / "eval", model=(f"v={vectors}",), cache=None, aggregator=("knn", "probe"), folds=3)
    return tmp_path / "eval"


@pytest.mark.slow
def test_of_several_bundles_one_is_chosen_and_vectors_are_predicted(several: Path, tmp_path: Path) -> None:
    vectors, out = tmp_path / "vectors.npz", tmp_path / "out"
    with pytest.raises(UsageError, match="has several bundles: v-knn, v-probe"):
        run(several, out, vectors=vectors)
    with pytest.raises(UsageError, match=r"no bundle of .*abmil"):
        run(several, out, vectors=vectors, aggregator="abmil")
    with pytest.raises(UsageError, match="trained on slide vectors"):
        run(several, out, cache=tmp_path, aggregator="knn")
    assert run(several, out, vectors=vectors, aggregator="knn") == 0
    decisions = [row["decision"] for row in read_csv(out / "predictions.csv")]
    assert decisions == ["a", "b"] * 12
    assert read_scores(out / "scores.h5") == ()
    np.savez(tmp_path / "wide.npz", slide_id=["x"], vectors=np.zeros((1, 6)))
    with pytest.raises(UsageError, match=r"vectors of 6 numbers, but the bundle was trained on 5 \(.*vectors\.npz\)"):
        run(several, out, vectors=tmp_path / "wide.npz", aggregator="knn")


@pytest.mark.parametrize(
    ("source", "aggregator"), [("mean-tokens#histogram:3+mean-token", "probe"), ("mean-tokens#prototypes:2", "set-knn")]
)
def test_a_descriptor_of_slides_is_predicted_with_and_applied_to_another_cohort(
    cohort: Planted, tmp_path: Path, source: str, aggregator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text(""))
    cohort.evaluate(
        tmp_path / "eval",
        model=(f"d={source}",),
        aggregator=(aggregator,),
        folds=3,
        final=True,
        external=(str(cohort.cache),),
        external_manifest=cohort.manifest,
    )
    assert run(tmp_path / "eval", tmp_path / "out", cache=cohort.cache) == 0
    heads = {(row["repeat"], row["fold"], row["slide_id"]): row for row in read_csv(tmp_path / "out" / "heads.csv")}
    other = read_csv(tmp_path / "eval" / "external_predictions.csv")
    outside = {(row["repeat"], row["fold"], row["slide_id"]): row for row in other}
    reported = read_csv(tmp_path / "eval" / "predictions.csv")
    for row in reported:
        key = (row["repeat"], row["fold"], row["slide_id"])
        assert row["probability_b"] == heads[key]["probability_b"] == outside[key]["probability_b"]
    assert run(tmp_path / "eval", tmp_path / "final", cache=cohort.cache, final=True) == 0


@pytest.mark.slow
def test_slides_are_embedded_as_in_training_and_a_killed_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text(""))
    manifest = write_cohort(tmp_path, 6)
    rows = [row | {"label": "ab"[number % 2]} for number, row in enumerate(read_csv(manifest))]
    write_manifest(manifest, rows)
    assert embed.run(small_config(manifest, tmp_path / "cache", encoder="handcrafted", min_tissue=0.3, qc=False)) == 0
    Planted(tmp_path / "cache", manifest).evaluate(tmp_path / "eval", **QUICK)
    new = write_manifest(
        tmp_path / "new.csv",
        [*(row | {"patient_id": "P"} for row in rows[:2]), {"slide_id": "x", "slide_path": "x.tif"}],
    )
    bundle, settings = tmp_path / "eval", {"manifest": new, "pages": True}
    assert run(bundle, tmp_path / "whole", **settings) == 1
    (failed,) = read_csv(tmp_path / "whole" / "failures.csv")
    assert (failed["stage"], failed["slide_id"]) == ("embed", "x")
    assert "data:image/jpeg" in (tmp_path / "whole" / "pages" / "s0.html").read_text()
    for slide in ("s0", "s1"):  # the token files themselves are those of training, but for the paths of the run
        one, other = (TokenFile.open(tmp_path / folder / f"{slide}.h5") for folder in ("cache", "whole/cache"))
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert one.meta.min_tissue == other.meta.min_tissue == 0.3
    assert run(bundle, tmp_path / "tokens", cache=tmp_path / "cache", manifest=new) == 1
    whole, tokens = (read_csv(tmp_path / name / "predictions.csv") for name in ("whole", "tokens"))
    assert whole == tokens

    with monkeypatch.context() as patch:

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(predict, "open_tokens", killed)  # after embedding
        with pytest.raises(KeyboardInterrupt):
            run(bundle, tmp_path / "killed", **settings)
    assert run(bundle, tmp_path / "killed", **settings) == 1
    before, after = (contents(tmp_path / name) for name in ("whole", "killed"))
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {
        "cache/s0.h5",
        "cache/s1.h5",
    }  # hold the path of --out
