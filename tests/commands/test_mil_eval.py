from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from slpd_toolkit.commands import mil_eval
from slpd_toolkit.commands.from_clam import run as from_clam
from slpd_toolkit.config.from_clam import FromClamConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.recipe import read_recipe
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.errors import DeviceMemoryError, UsageError
from slpd_toolkit.core.folder_lock import is_lock
from slpd_toolkit.mil.heads.aggregators.trans_mil import TransMil
from slpd_toolkit.mil.statistics.model_results import undefined_metrics
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.metrics import auc
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.report import evaluation_folder
from slpd_toolkit.representations import models
from slpd_toolkit.representations.stored_bags import StoredBags
from tests.cohorts import read_csv
from tests.conftest import REPOSITORY
from tests.evaluations import Planted, headline, metrics, plant, rewrite, two_classes
from tests.token_factory import write_slide

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.mil.statistics.results import Evaluation
    from slpd_toolkit.report.thumbnails import WholeSlide


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the report, which takes longer than a tiny evaluation; `tests/cli/test_app.py` runs a complete one."""
    monkeypatch.setattr(evaluation_folder, "write_report", lambda path, *_: path.write_text("<html/>"))


@pytest.fixture(scope="module")
def separable(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Two classes that are easily separated. Must not be modified."""
    return two_classes(tmp_path_factory.mktemp("separable"))


def save_region_vit(folder: Path, *, input_dim: int = 8, grid: int = 2, slides: str = "", seed: int = 0) -> Path:
    """Write a run folder with a small region ViT, and the list of its training slides."""
    folder.mkdir(parents=True)
    config = RegionViTConfig(embed_dim=12, depth=1, heads=2)
    model = RegionViT(config, torch.Generator().manual_seed(seed), input_dim=input_dim, grid=grid)
    model.save(folder / "region_vit.pt")
    if slides:
        (folder / "slides.csv").write_text(f"slide_id,regions\n{slides}")
    return folder


@pytest.mark.slow
def test_a_perfect_signal_is_found(separable: Planted, tmp_path: Path) -> None:
    found = separable.evaluate(tmp_path / "out", aggregator=("knn", "probe", "abmil"), steps=60)
    for aggregator in ("knn", "probe", "abmil"):
        values = headline(found, aggregator)
        assert (values["mean"], values["sd"]) == (1.0, 0.0)
        assert values["interval"]["low"] == pytest.approx(0.025 ** (1 / 24))  # 24 of 24, exactly
        assert values["interval"]["high"] == 1.0


@pytest.mark.slow
def test_pure_noise_is_called_noise(tmp_path: Path) -> None:
    noise = two_classes(tmp_path, slides=60, shift=0.0)
    found = noise.evaluate(tmp_path / "out", aggregator=("knn", "probe", "mean-mlp"), folds=3, steps=100)
    for aggregator in ("knn", "probe", "mean-mlp"):
        interval = headline(found, aggregator)["interval"]
        assert interval["low"] < 0.5 < interval["high"]


@pytest.mark.slow
def test_what_marks_the_patient_leaks_through_slides_and_not_through_patients(tmp_path: Path) -> None:
    """Six similar slides per patient, and random labels per patient: there is nothing to learn."""
    patients = [f"p{number:02}" for number in range(16) for _ in range(6)]
    labels = ["ab"[int(patient[1:]) % 2] for patient in patients]
    marked = plant(tmp_path, {"label": labels}, [0.0] * 96, patients=patients, patient_mark=4.0)
    grouped = marked.evaluate(tmp_path / "grouped", aggregator=("knn",), folds=6)
    assert 0.2 < headline(grouped, "knn")["mean"] < 0.8
    assert grouped["audit"]["mean-tokens"]["clean"]
    rewrite(marked.manifest, lambda rows: [{**row, "patient_id": ""} for row in rows])
    assert headline(marked.evaluate(tmp_path / "naive", aggregator=("knn",), folds=6), "knn")["mean"] > 0.95


@pytest.mark.slow
def test_grades_are_judged_by_their_order(tmp_path: Path) -> None:
    grades = [number % 3 + 1 for number in range(36)]
    graded = plant(tmp_path, {"grade": grades}, [4.0 * grade for grade in grades])
    found = graded.evaluate(tmp_path / "out", task="ordinal", target=("grade",), classes=("1", "2", "3"))
    assert not any("order" in note for note in found["notes"])
    assert found["task"] == {"kind": "ordinal", "headline": "quadratic_kappa", "classes": ["1", "2", "3"]}
    assert headline(found, "probe")["mean"] > 0.9
    assert "auc" in found["results"][0]["metrics"]


@pytest.mark.slow
def test_an_order_and_classes_that_nobody_gave_are_told(tmp_path: Path) -> None:
    grades = [("low", "high", "nan")[number % 3] for number in range(24)]
    graded = plant(tmp_path, {"grade": grades}, [0.0] * 24)
    notes = graded.evaluate(tmp_path / "out", task="ordinal", target=("grade",), aggregator=("knn",))["notes"]
    assert any("nan is used as a class" in note for note in notes)
    assert any("assumed to be ordered high < low < nan" in note for note in notes)


@pytest.mark.slow
def test_a_column_of_the_manifest_is_no_feature(separable: Planted, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("slide_id,f0,label\n" + "".join(f"s{i:03},1,{i % 2}\n" for i in range(24)))
    with pytest.raises(UsageError, match="column label belongs to the manifest"):
        mil_eval.run(separable.config(tmp_path / "out", cache=None, model=(str(tmp_path / "v.csv"),)))


@pytest.mark.slow
def test_survival_is_ranked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    risks = rng.normal(size=60)
    times = [f"{months:.3f}" for months in 20 * np.exp(-3 * risks) * rng.exponential(size=60)]
    events = (rng.random(60) < 0.7).astype(int).tolist()
    cohort = plant(tmp_path, {"months": times, "dead": events}, (2 * risks).tolist())
    found = cohort.evaluate(tmp_path / "out", time_column="months", event_column="dead", aggregator=("probe", "abmil"))
    assert found["target"] == "months, dead"
    assert headline(found, "probe")["mean"] > 0.75
    assert headline(found, "abmil")["mean"] > 0.75
    row = read_csv(tmp_path / "out" / "predictions.csv")[0]
    assert list(row)[4:] == ["slide_id", "patient_id", "time", "event", "risk"]
    assert float(row["time"]) == float(times[int(row["slide_id"][1:])])


@pytest.mark.slow
def test_survival_without_anyone_censored_has_nothing_to_balance(tmp_path: Path) -> None:
    cohort = plant(tmp_path, {"time": list(range(1, 25)), "event": [1] * 24}, list(np.linspace(3, -3, 24)))
    found = cohort.evaluate(tmp_path / "out", task="survival", aggregator=("probe",))
    assert headline(found, "probe")["mean"] > 0.8


@pytest.mark.slow
def test_files_say_the_same_and_all(separable: Planted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    noisy = two_classes(tmp_path, shift=1.0)
    found = noisy.evaluate(out, repeats=2)
    folds, predictions = read_csv(out / "folds.csv"), read_csv(out / "predictions.csv")
    for repeat, fold in itertools.product("01", "0123"):
        inside = [row for row in folds if (row["repeat"], row["fold"]) == (repeat, fold)]
        assert sorted(row["slide_id"] for row in inside) == [f"s{number:03}" for number in range(24)]
        tested = {row["slide_id"] for row in inside if row["part"] == "test"}
        for aggregator in ("knn", "probe"):
            said = [
                row
                for row in predictions
                if (row["repeat"], row["fold"], row["aggregator"]) == (repeat, fold, aggregator)
            ]
            assert {row["slide_id"] for row in said} == tested
            targets = np.array([row["target"] == "b" for row in said], dtype=np.int64)
            probabilities = np.array([[float(row[f"probability_{name}"]) for name in "ab"] for row in said])
            values = headline(found, aggregator)["per_fold"]
            assert values[int(repeat) * 4 + int(fold)] == auc(targets, probabilities)
            assert all(row["predicted"] == "ab"[np.argmax(p)] for row, p in zip(said, probabilities, strict=True))
    assert found["cohort"] == {
        "slides": 24,
        "patients": 24,
        "strata": {name: {"slides": 12, "patients": 12} for name in "ab"},
    }
    assert found["correction"] is None
    assert found["recipe"]["seed"] == 0
    assert found["recipe"]["about"]["manifest_sha256"]
    again = MilEvalConfig(**read_recipe(MilEvalConfig, out / "recipe.toml"))
    assert again.repeats == 2
    assert again.model == ("mean-tokens",)


def test_two_models_are_compared_on_the_same_folds(separable: Planted, tmp_path: Path) -> None:
    run = save_region_vit(tmp_path / "runs" / "tiny")
    found = separable.evaluate(
        tmp_path / "out", model=("mean-tokens", f"other={run}", "untrained"), aggregator=("knn",)
    )
    pairs = [(each["first"], each["second"]) for each in found["comparisons"]]
    assert pairs == [("mean-tokens", "other"), ("mean-tokens", "untrained"), ("other", "untrained")]
    for each in found["comparisons"]:
        compared = each["metrics"]["auc"]
        of = {result["model"]: result["metrics"]["auc"]["mean"] for result in found["results"]}
        assert compared["difference"] == pytest.approx(of[each["first"]] - of[each["second"]])
        for test in ("shared_training", "permutation", "corrected_t"):
            assert each["adjusted_p"][test] is None or each["adjusted_p"][test] >= compared[test]["p"]
    assert found["correction"] == "Holm over 3 comparisons, each test by itself"


@pytest.mark.slow
def test_one_command_gives_one_result(separable: Planted, tmp_path: Path) -> None:
    run = save_region_vit(tmp_path / "runs" / "tiny")
    models = (str(run), "untrained")
    results = []
    for changes in ({}, {}, {"workers": 1}):
        separable.evaluate(tmp_path / "out", model=models, aggregator=("knn", "mean-mlp"), folds=3, steps=20, **changes)
        results.append([(tmp_path / "out" / name).read_bytes() for name in ("metrics.json", "predictions.csv")])
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_processes_change_no_byte(separable: Planted, tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        separable.evaluate(tmp_path / f"{jobs}", aggregator=("abmil", "trans-mil"), steps=40, jobs=jobs)
        found.append([(tmp_path / f"{jobs}" / name).read_bytes() for name in ("metrics.json", "predictions.csv")])
    assert found[0] == found[1]


def test_an_aggregator_whose_memory_runs_out_costs_the_others_nothing(
    separable: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 1.8 TiB")

    monkeypatch.setattr(TransMil, "forward", fail)
    config = separable.config(tmp_path / "out", aggregator=("knn", "trans-mil", "mean-mlp"), steps=5, jobs=1)
    assert mil_eval.run(config) == 1
    found = metrics(tmp_path / "out")
    assert [each["aggregator"] for each in found["results"]] == ["knn", "mean-mlp"]
    assert re.search(r"trans-mil is left out. Out of memory at slide s\d+ with \d regions: Unable", found["notes"][0])
    assert "trans-mil is left out" in capsys.readouterr().err
    with pytest.raises(DeviceMemoryError, match="Out of memory at slide"):
        mil_eval.run(separable.config(tmp_path / "none", aggregator=("trans-mil",), jobs=1))


@pytest.mark.slow
def test_region_embeddings_are_made_once(separable: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_region_vit(tmp_path / "runs" / "tiny")
    first = separable.evaluate(tmp_path / "out", model=(str(run),), aggregator=("knn",))

    def refuse(*_: object, **_named: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(RegionViT, "forward", refuse)
    assert separable.evaluate(tmp_path / "out", model=(str(run),), aggregator=("knn",)) == first
    with pytest.raises(AssertionError, match="embedded again"):
        separable.evaluate(tmp_path / "out", model=(str(run),), view="centre", aggregator=("knn",))
    monkeypatch.undo()
    (stored,) = (run / "region_embeddings").iterdir()
    stored.write_bytes(b"damaged")
    assert separable.evaluate(tmp_path / "out", model=(str(run),), aggregator=("knn",)) == first


@pytest.mark.slow
@pytest.mark.parametrize(("keep_every_s", "writes"), [(60.0, 1), (0.0, 5)])
def test_what_was_embedded_before_an_interrupt_is_kept(
    separable: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_every_s: float, writes: int
) -> None:
    run = save_region_vit(tmp_path / "runs" / "tiny")
    uninterrupted = separable.evaluate(
        tmp_path / "whole", model=(f"tiny={save_region_vit(tmp_path / 'runs' / 'b')}",), aggregator=("knn",)
    )
    forward, add = RegionViT.forward, StoredBags.add
    embedded: list[int] = []
    written: list[int] = []

    def keep(self: StoredBags, bags: Any, files: Any) -> None:
        written.append(len(bags))
        add(self, bags, files)

    def embed(self: RegionViT, tokens: torch.Tensor, **named: Any) -> Any:
        if len(embedded) == most:
            raise KeyboardInterrupt
        embedded.append(len(tokens))
        return forward(self, tokens, **named)

    monkeypatch.setattr(models, "_KEEP_EVERY_S", keep_every_s)
    monkeypatch.setattr(RegionViT, "forward", embed)
    monkeypatch.setattr(StoredBags, "add", keep)
    most = 5
    with pytest.raises(KeyboardInterrupt):
        mil_eval.run(separable.config(tmp_path / "out", model=(str(run),), aggregator=("knn",)))
    assert (len(written), sum(written)) == (writes, 5)
    most = 24
    again = separable.evaluate(tmp_path / "out", model=(str(run),), aggregator=("knn",))
    assert len(embedded) == 24
    assert again["results"] == uninterrupted["results"]


def test_a_folder_that_cannot_be_written_to_costs_only_time(
    separable: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_region_vit(tmp_path / "runs" / "tiny")
    (run / "region_embeddings").write_text("a file where the folder would be")
    separable.evaluate(tmp_path / "out", model=(str(run),), aggregator=("knn",))
    assert "Region embeddings are not stored" in capsys.readouterr().err


@pytest.mark.slow
def test_what_pretraining_saw_is_told(separable: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_patients = two_classes(tmp_path, patients=[f"p{number // 4 * 2 + number % 2}" for number in range(24)])
    run = save_region_vit(tmp_path / "runs" / "tiny", slides="s000,3\ns001,3\nelsewhere,5\n")
    found = rewrite_patients.evaluate(tmp_path / "out", model=(str(run), f"unknown={run / 'region_vit.pt'}"), folds=3)
    findings = found["audit"]["tiny"]["findings"]
    assert {slide for each in findings for slide in each["pretrained_slides"]} == {"s000", "s001"}
    assert {patient for each in findings for patient in each["pretrained_patients"]} == set()
    shown = capsys.readouterr().out
    assert "pretrained on 2 of the tested slides" in shown
    assert "clean: no patient is in two parts of a split (3 splits)." in shown


@pytest.mark.slow
def test_a_slide_under_two_names_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"s{number},{number},{number % 2}\n" for number in range(24))
    (tmp_path / "vectors.csv").write_text(f"slide_id,x,y\n{rows}twin,0,0\n")
    labels = "".join(f"s{number},{'ab'[number % 2]}\n" for number in range(24))
    (tmp_path / "m.csv").write_text(f"slide_id,label\n{labels}twin,a\n")
    planted = Planted(tmp_path, tmp_path / "m.csv")
    found = planted.evaluate(tmp_path / "out", cache=None, model=(str(tmp_path / "vectors.csv"),))
    findings = found["audit"]["vectors"]["findings"]
    assert all(each["shared_vectors"] == [{"slides": ["s0", "twin"], "count": 1}] for each in findings)
    shown = " ".join(capsys.readouterr().out.split())
    assert "LEAK: identical embeddings are in two parts" in shown
    assert "every slide counts as a separate patient" in found["notes"][0]


@pytest.mark.slow
def test_hipt_s_splits_are_flagged(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = data / "labels"
    manifest = tmp_path / "brca.csv"
    from_clam(FromClamConfig(labels=labels / "tcga_brca_clam_style.csv", out=manifest))
    rng = np.random.default_rng(0)
    ids = [row["slide_id"] for row in read_csv(manifest)]
    np.savez(tmp_path / "random.npz", slide_id=ids, vectors=rng.normal(size=(len(ids), 4)))
    capsys.readouterr()
    found = Planted(tmp_path, manifest).evaluate(
        tmp_path / "out",
        cache=None,
        model=(str(tmp_path / "random.npz"),),
        splits=(labels,),
        classes=("IDC", "ILC"),
        allow_missing=True,
        aggregator=("knn",),
    )
    audit = found["audit"]["random"]
    assert (audit["clean"], audit["splits"], audit["splits_with_findings"]) == (False, 2, 2)
    shared = {
        each["fold"]: {pair: len(names) for pair, names in each["shared_patients"].items()}
        for each in audit["findings"]
    }
    assert shared[0] == {"train and val": 4, "train and test": 8}
    shown = " ".join(capsys.readouterr().out.split())
    assert "LEAK: 2 of 2 splits have patients in two parts" in shown
    assert any("not in --classes: MDLC 25" in note for note in found["notes"])
    assert any("slides in the splits are not evaluated" in note for note in found["notes"])


def write_split(path: Path, **parts: list[str]) -> None:
    rows = [",".join(row) for row in itertools.zip_longest(*parts.values(), fillvalue="")]
    path.write_text("\n".join([",".join(parts), *rows]))


@pytest.mark.slow
def test_splits_of_files_are_used_as_they_are(separable: Planted, tmp_path: Path) -> None:
    slides = [f"s{number:03}" for number in range(24)]
    for number in (0, 10, 2):
        turned = slides[number:] + slides[:number]
        write_split(tmp_path / f"splits_{number}.csv", train=turned[:12], val=turned[12:18], test=turned[18:])
    (tmp_path / "splits_0_bool.csv").write_text("nonsense")
    found = separable.evaluate(tmp_path / "out", splits=(tmp_path,))
    assert [fold["fold"] for fold in found["results"][0]["folds"]] == [0, 2, 10]
    folds = read_csv(tmp_path / "out" / "folds.csv")
    tested = [row["slide_id"] for row in folds if (row["fold"], row["part"]) == ("10", "test")]
    assert tested == [f"s{number:03}" for number in range(4, 10)]


@pytest.mark.slow
def test_vectors_that_hardly_differ_are_told_before_the_work_and_in_the_results(
    separable: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slide encoder with wrong coordinates: files as STAMP writes GigaPath's, all slides at a cosine of .98."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=64)
    for name, noise in (("gigapath-slide-1a2b3c4d", 0.12), ("titan-slide-5e6f7a8b", 1.0)):
        (tmp_path / name).mkdir()
        for slide in (row["slide_id"] for row in read_csv(separable.manifest)):
            with h5py.File(tmp_path / name / f"{slide}.h5", "w") as file:
                file["feats"] = (common + noise * rng.normal(size=64)).astype(np.float16)[None]
                file.attrs.update({"encoder": name.partition("-")[0], "feat_type": "slide", "stamp_version": "2.4.0"})
    models = (f"gigapath={tmp_path}/gigapath-slide-1a2b3c4d", f"titan={tmp_path}/titan-slide-5e6f7a8b")
    found = separable.evaluate(tmp_path / "out", model=models, aggregator=("knn",), cache=None)
    said = r"gigapath: all 24 vectors are within a cosine distance of 0\.0[23]\d* of one another"
    assert len([note for note in found["notes"] if re.match(said, note)]) == 1
    before, _, after = " ".join(capsys.readouterr().err.split()).partition("gigapath: all 24 vectors")
    assert before.endswith("warning: ")
    assert "gigapath: all 24 vectors" in after
    assert "titan: all" not in before + after


def test_a_split_counts_once_however_often_it_is_given(separable: Planted, tmp_path: Path) -> None:
    slides = [f"s{number:03}" for number in range(24)]
    for number, ids in ((0, slides), (1, slides[1:] + slides[:1]), (4, slides)):
        train = ids[:12] if number < 4 else ids[11::-1]
        write_split(tmp_path / f"splits_{number}.csv", train=train, val=ids[12:18], test=ids[18:])
    with pytest.raises(UsageError, match=r"Splits 0, 4 are identical, but would count as 2 folds"):
        mil_eval.run(separable.config(tmp_path / "out", splits=(tmp_path,)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "train"), [({}, 12), ({"train_fraction": 0.5}, 6), ({"shots": 2}, 4)])
def test_heads_learn_from_as_many_labels_as_asked(
    separable: Planted, tmp_path: Path, changes: dict[str, Any], train: int
) -> None:
    found = separable.evaluate(tmp_path / "out", aggregator=("knn",), **changes)
    assert {(fold["train"], fold["test"]) for fold in found["results"][0]["folds"]} == {(train, 6)}


@pytest.mark.slow
def test_a_metric_that_a_fold_leaves_undefined_is_null_and_told(separable: Planted, tmp_path: Path) -> None:
    fold = [str(number // 2 % 4) if number < 20 else "1" for number in range(24)]
    rows = zip(fold, range(24), strict=True)
    column = ["0" if number in {0, 2, 4} else {"0": "2"}.get(name, name) for name, number in rows]
    cohort = plant(tmp_path, {"label": list("ab" * 12), "fold": column}, [0.0, 6.0] * 12)
    found = cohort.evaluate(tmp_path / "out", fold_column="fold", folds=None)
    assert headline(found, "knn")["per_fold"][0] is None
    assert any("auc is undefined in 1 of 4 test parts" in note for note in found["notes"])


@pytest.mark.slow
def test_folds_that_are_not_used_are_told(
    separable: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    column = [str(number // 2 % 3) for number in range(24)]
    cohort = plant(tmp_path, {"label": list("ab" * 12), "third": column}, [0.0, 6.0] * 12)
    told = "warning: --folds 7 is not used: --fold-column third gives 3."
    found = cohort.evaluate(tmp_path / "out", fold_column="third", folds=7, aggregator=("knn",))
    assert told in capsys.readouterr().err
    assert "folds" not in found["recipe"]
    cohort.evaluate(tmp_path / "out", fold_column="third", folds=None, aggregator=("knn",))
    assert "not used" not in capsys.readouterr().err
    assert separable.evaluate(tmp_path / "own", folds=None, aggregator=("knn",))["recipe"]["folds"] == 5


def test_a_kappa_that_one_model_leaves_undefined_is_told() -> None:
    results = [
        Result(name, "knn", (None,) * 2, {"kappa": np.array(values)}, {})  # type: ignore[arg-type]
        for name, values in {"a": [0.5, 0.5], "b": [np.nan, 0.5]}.items()
    ]
    assert undefined_metrics(results) == ["kappa is undefined in 1 of 2 test parts and is the mean of the others."]
    results[0].values["kappa"][:] = np.nan
    assert undefined_metrics(results) == ["kappa is undefined in all test parts."]


def test_slides_that_cannot_be_read_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    cohort = plant(tmp_path, {"label": list("ab" * 12), "slide_path": ["broken.svs"] * 24}, [0.0, 6.0] * 12)

    def look_at_all(
        path: Path, evaluation: Evaluation, thumbnails: Callable[[str], WholeSlide | None], external: object
    ) -> None:
        assert [thumbnails(slide) for slide in evaluation.cohort.slides[:2]] == [None, None]

    monkeypatch.setattr(evaluation_folder, "write_report", look_at_all)
    cohort.evaluate(tmp_path / "out", aggregator=("knn",))
    said = [line for line in capsys.readouterr().err.splitlines() if "without pixels" in line]
    assert len(said) == 1
    assert "2 slides without pixels, because their files cannot be read: s000, s001." in said[0]


def drop_label(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "label": "" if row["slide_id"] == "s003" else row["label"]} for row in rows]


def drop_row(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return rows[1:]


def add_row(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [*rows, {**rows[0], "slide_id": "s999"}]


@pytest.mark.parametrize(
    ("change", "slides", "note"),
    [
        (drop_label, 23, "1 slide has no label: s003."),
        (drop_row, 23, "1 slide of the cache .* is not in the manifest: s000."),
        (add_row, 24, "1 slide is not in the cache .*: s999."),
    ],
)
def test_missing_slides_stop_unless_they_may_be_missing(
    tmp_path: Path, change: Callable[..., Any], slides: int, note: str
) -> None:
    cohort = two_classes(tmp_path)
    rewrite(cohort.manifest, change)
    with pytest.raises(UsageError, match=note) as caught:
        mil_eval.run(cohort.config(tmp_path / "out"))
    assert "--allow-missing" in str(caught.value)
    assert not (tmp_path / "out").exists()
    found = cohort.evaluate(tmp_path / "out", aggregator=("knn",), allow_missing=True)
    assert found["cohort"]["slides"] == slides
    assert any(re.search(note, each) for each in found["notes"])


def test_a_token_file_without_a_region_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = two_classes(tmp_path)
    write_slide(cohort.cache, "s003", np.zeros((0, 2, 2, 8)))
    with pytest.raises(UsageError, match=r"1 slide is not in the cache .*: s003"):
        mil_eval.run(cohort.config(tmp_path / "out"))
    assert "1 slide has a token file without regions and counts as missing: s003." in capsys.readouterr().err


def one_class(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "label": "a"} for row in rows]


def rare_class(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    rows = [{**row, "rare": "c" if number < 2 else row["label"]} for number, row in enumerate(rows)]
    return [{**row, "label": "c" if number < 3 else row["label"]} for number, row in enumerate(rows)]


def two_labels(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "patient_id": f"p{number // 2}"} for number, row in enumerate(rows)]


def other_ids(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "slide_id": row["slide_id"] + ".svs"} for row in rows]


def twice(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [*rows, rows[0]]


def same(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return rows


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (one_class, {}, "Classes with slides: a;"),
        (rare_class, {}, "4 folds require at least 4 patients per class; c has 3. Use 3 or fewer folds"),
        (rare_class, {"classes": ("a", "b", "c"), "target": ("rare",)}, "c has 2. Add more patients, or exclude"),
        (two_labels, {}, r"12 patients have more than one label: p0 \(a, b\)"),
        (other_ids, {}, r"the manifest has s000\.svs, the cache .* has s000"),
        (twice, {}, "slide_id 's000' occurs in rows 2, 26"),
        (same, {"target": ("lable",)}, r"column lable \(did you mean label\?\)"),
        (same, {"task": "survival"}, "column time and column event not found"),
        (same, {"time_column": "label", "event_column": "label"}, "24 slides have no valid time"),
        (same, {"by_site": True}, "column site not found"),
        (same, {"splits": (Path("nowhere"),)}, "--splits: nowhere does not exist"),
        (same, {"cache": None}, "Missing token cache, required by --model mean-tokens"),
        (same, {"model": ("mean_tokens",)}, r"did you mean mean-tokens\?"),
        (same, {"target": ("slide_id",)}, "4 folds require at least 4 patients per class; s000 has 1"),
        (same, {"classes": ("a",)}, "12 slides have a label not in --classes: b 12"),
        (same, {"classes": ("a", "b", "c")}, "requested classes: a, b, c"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_anything_starts(
    tmp_path: Path, change: Callable[..., Any], settings: dict[str, Any], said: str
) -> None:
    cohort = two_classes(tmp_path)
    rewrite(cohort.manifest, change)
    with pytest.raises(UsageError, match=said):
        mil_eval.run(cohort.config(tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"input_dim": 5}, r"expects tokens with 5 features, but those in the cache have 8 \(planted\)"),
        ({"grid": 3}, "was trained on 3 x 3 tokens, but regions in the cache have 2 x 2"),
    ],
)
def test_a_model_of_other_tokens_is_refused(
    separable: Planted, tmp_path: Path, shape: dict[str, Any], said: str
) -> None:
    run = save_region_vit(tmp_path / "run", **shape)
    with pytest.raises(UsageError, match=said):
        mil_eval.run(separable.config(tmp_path / "out", model=(str(run),), aggregator=("knn",)))


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    cohort = two_classes(tmp_path)
    rewrite(cohort.manifest, lambda rows: drop_row(drop_label(one_class(rows))))
    with pytest.raises(UsageError) as caught:
        mil_eval.run(cohort.config(tmp_path / "out"))
    message = caught.value.message
    assert "3 problems found" in message
    assert "s003" in message
    assert "s000" in message
    assert "Classes with slides: a" in message


@pytest.mark.parametrize(
    ("taken", "out", "said"),
    [
        ("file", "file", "it, or one of its parents, is an existing file"),
        ("file", "file/out", "it, or one of its parents, is an existing file"),
        ("out/figures", "out", "figures cannot be created: it, or one of its parents, is an existing file"),
        ("out/metrics.json/", "out", r"metrics\.json is a folder, but a file with this name must be written"),
        ("out/figures/roc.svg/", "out", r"roc\.svg is a folder, but a file with this name must be written"),
    ],
)
def test_an_output_that_cannot_be_written_to_stops_before_the_work(
    separable: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, out: str, said: str
) -> None:
    path = tmp_path / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if taken.endswith("/") else path.touch()
    monkeypatch.setattr(mil_eval, "represent_all", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(UsageError, match=f"--out: .*{said}"):
        mil_eval.run(separable.config(tmp_path / out))


def test_results_never_replace_what_they_are_made_from(tmp_path: Path) -> None:
    cohort = two_classes(tmp_path)
    run = save_region_vit(tmp_path / "runs" / "tiny")
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    (predicted / "heads.csv").touch()
    vectors = tmp_path / "predictions.csv"
    vectors.write_text("slide_id,x\n" + "".join(f"s{number:03},{number}\n" for number in range(24)))
    before = sorted(tmp_path.rglob("*"))
    for settings, said in (
        ({"out": cohort.cache}, "is the token cache"),
        ({"out": run, "model": (str(run),)}, r"has a run of `slpd pretrain` \(region_vit\.pt\), whose files would be"),
        ({"out": predicted}, r"has predictions of `slpd predict` \(heads\.csv\), whose files would be overwritten"),
        ({"out": tmp_path, "model": (str(vectors),)}, r"predictions\.csv is an input and would be overwritten"),
    ):
        with pytest.raises(UsageError, match=f"--out: .*{said}"):
            mil_eval.run(cohort.config(**settings))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [True, False])
def test_interrupting_ends_all_processes_with_one_sentence(separable: Planted, tmp_path: Path, everyone: bool) -> None:
    command = f"mil-eval {separable.cache} --manifest {separable.manifest} --model mean-tokens --folds 4 --jobs 2 "
    command += f"--aggregator trans-mil --patience 1000 --steps 100000 --out {tmp_path / 'out'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "slpd_toolkit", *command.split()],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 100
    while len(workers_of(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(0.5)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.count("Interrupted") == 1
    deadline = time.monotonic() + 10
    while workers_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers_of(process.pid) == []


def test_a_page_never_stands_beside_files_of_another_evaluation(
    separable: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    separable.evaluate(tmp_path / "out", aggregator=("knn",))
    assert (tmp_path / "out" / "report.html").exists()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluation_folder, "write_report", fail)
    with pytest.raises(OSError, match="No space left"):
        separable.evaluate(tmp_path / "out", aggregator=("probe",))
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_evaluation_run_again_gives_the_files_of_one_that_was_not(tmp_path: Path) -> None:
    """All files are compared byte by byte; anything a killed run left behind is one of these files or removed."""
    rng = np.random.default_rng(0)
    two_classes(tmp_path / "one", shift=1.0)
    save_region_vit(tmp_path / "one" / "run")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    started = time.monotonic()
    assert evaluation_in(tmp_path / "one").wait() == 0
    took_s = time.monotonic() - started
    whole = contents(tmp_path / "one")
    assert {Path("out", name) for name in ("report.html", "metrics.json", "figures/roc.svg")} <= whole.keys()
    for number in range(_KILLS):
        process = evaluation_in(tmp_path / "other")
        time.sleep(took_s * (number + rng.random()) / _KILLS)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while workers_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert workers_of(process.pid) == []
        for path, content in contents(tmp_path / "other").items():
            assert path.suffix == ".tmp" or content == whole[path]
    assert evaluation_in(tmp_path / "other").wait() == 0
    assert contents(tmp_path / "other") == whole


_KILLS = 8


def evaluation_in(folder: Path) -> subprocess.Popen[bytes]:
    """Settings of an evaluation of a region ViT and mean tokens, with relative paths."""
    command = "mil-eval cache --manifest manifest.csv --model run --model mean-tokens --folds 4 --jobs 2 --steps 200 "
    command += "--aggregator knn --aggregator abmil --permutations 200 --device cpu --out out"
    return subprocess.Popen(
        [sys.executable, "-m", "slpd_toolkit", *command.split()],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def contents(folder: Path) -> dict[Path, bytes]:
    paths = [*(folder / "out").rglob("*"), *(folder / "run" / "region_embeddings").rglob("*")]
    return {path.relative_to(folder): path.read_bytes() for path in paths if path.is_file() and not is_lock(path)}


def workers_of(session: int) -> list[str]:
    """Return the living processes of a session that were started by joblib."""
    shown = subprocess.run(
        ["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return [line for line in shown if "loky" in line and not line.startswith("Z")]


@pytest.mark.slow
def test_descriptors_of_a_model_are_evaluated_beside_it(separable: Planted, tmp_path: Path) -> None:
    models = ("mean-tokens", "mean-tokens#histogram:4", "protos=mean-tokens#prototypes:2", "mean-tokens#mixture:2")
    found = separable.evaluate(tmp_path / "out", model=models, aggregator=("knn",))
    names = ["mean-tokens", "mean-tokens-histogram", "protos", "mean-tokens-mixture"]
    assert [each["name"] for each in found["representations"]] == names
    assert min(headline(found, "knn", name)["mean"] for name in names) > 0.9
    assert found["representations"][1]["source"].endswith(": histogram, 4 prototypes, fitted in each fold")
    assert found["representations"][2]["vectors"] <= 2 * 24
