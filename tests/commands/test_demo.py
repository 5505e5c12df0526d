"""`slpd demo`: its settings, its folder, and a small run of everything, also after an interruption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands import demo as command
from slpd_toolkit.commands import mil_eval, predict, pretrain
from slpd_toolkit.commands.study.cohort import read_cohort
from slpd_toolkit.config import study_stages as stages
from slpd_toolkit.config.auto_recipe import CohortSize
from slpd_toolkit.config.demo import DemoConfig
from slpd_toolkit.config.settings import flatten
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.demo.painting import paint_cohort
from slpd_toolkit.training.fitting import choose_for
from tests.cohorts import read_csv, write_manifest
from tests.evaluations import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.demo.cohort_plan import PlannedSlide


@pytest.mark.parametrize("slides", [-1, 1, 11])
def test_too_few_slides_are_refused(tmp_path: Path, slides: int) -> None:
    with pytest.raises(UsageError, match=f"--slides: got {slides}, allowed: at least 12, or 0"):
        DemoConfig(out=tmp_path, slides=slides)


def test_tiny_sets_what_is_not_given(tmp_path: Path) -> None:
    tiny, full = DemoConfig(out=tmp_path, tiny=True), DemoConfig(out=tmp_path)
    assert tiny.slide_count < full.slide_count
    assert DemoConfig(out=tmp_path, tiny=True, slides=13).slide_count == 13


@pytest.mark.parametrize("tiny", [True, False])
def test_dino_differs_from_slpd_in_the_prototype_losses_alone(tmp_path: Path, tiny: bool) -> None:
    study = command.study_settings(DemoConfig(out=tmp_path, tiny=tiny))
    size = CohortSize((6,) * 12 if tiny else (9,) * 36, 8)
    slpd, dino = (choose_for(stages.pretraining(study, prototypes=each), size)[0] for each in (True, False))
    ours, theirs = flatten(slpd), flatten(dino)
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} == {"out", "intra_weight", "inter_weight"}
    assert slpd.uses_prototypes
    assert slpd.region_vit.whitening == "wiener"  # the recipe robust
    assert (slpd.epochs == 2) == tiny
    assert not dino.uses_prototypes


@pytest.mark.parametrize("slides", [12, 13, 48])
def test_every_cohort_can_be_divided(tmp_path: Path, slides: int) -> None:
    config = DemoConfig(out=tmp_path, slides=slides)
    rows = [
        {"slide_id": slide.slide_id, "slide_path": "x", "patient_id": slide.patient_id, "label": slide.label}
        for slide in command.planned_slides(config)
    ]
    write_manifest(tmp_path / "cohort.csv", rows)
    found = read_cohort(command.study_settings(config), ["mean-tokens"])
    assert 3 <= found.folds <= 5
    assert set(found.evaluated_held_out["label"]) == {"inflamed", "excluded"}


@pytest.mark.parametrize("slides", [12, 13, 17, 48])
def test_two_new_patients_of_different_classes_are_predicted(tmp_path: Path, slides: int) -> None:
    config = DemoConfig(out=tmp_path, slides=slides)
    new = command.new_slides(config)
    assert {slide.label for slide in new} == {"inflamed", "excluded"}
    assert not {slide.patient_id for slide in new} & {slide.patient_id for slide in command.planned_slides(config)}


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "paint_cohort", stop)


def test_a_folder_with_other_settings_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        command.run(DemoConfig(out=tmp_path / "demo", slides=12))
    before = (tmp_path / "demo" / "demo.toml").read_text()
    with pytest.raises(UsageError, match=r"contains a demo with slides = 12, .*; requested: slides = 13, "):
        command.run(DemoConfig(out=tmp_path / "demo", slides=13))
    assert (tmp_path / "demo" / "demo.toml").read_text() == before
    with pytest.raises(KeyboardInterrupt):  # the same settings go on
        command.run(DemoConfig(out=tmp_path / "demo", slides=12))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is not empty and is not a demo folder"):
        command.run(DemoConfig(out=tmp_path))


@pytest.mark.slow
def test_the_whole_way_with_two_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DemoConfig(out=tmp_path / "demo", tiny=True, jobs=1)
    all_slides = paint_cohort

    def half(planned: Sequence[PlannedSlide], out: Path, jobs: int) -> None:
        all_slides(planned[:4], out, jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "paint_cohort", half)
    with pytest.raises(KeyboardInterrupt):
        command.run(config)
    monkeypatch.undo()
    painted = {path: path.stat().st_mtime_ns for path in (config.out / "slides").glob("*.tiff")}
    assert len(painted) == 4

    monkeypatch.setattr(pretrain, "run", lambda _: 143)  # as SIGTERM ends it
    assert command.run(config) == 143
    monkeypatch.undo()

    assert command.run(config) == 0
    assert all(path.stat().st_mtime_ns == moment for path, moment in painted.items())
    printed = capsys.readouterr()
    assert "This demo generates 12 synthetic slides of 8 invented patients" in printed.err
    assert "6/6 heatmaps" in printed.err
    assert "truth" in printed.out
    assert "The highest mean is that of" in printed.err
    assert "The highest mean is that of truth" not in printed.err
    assert "As a ceiling, with information other than the slides: truth reaches AUC" in printed.err
    for name in (
        "index.html",
        "cache/qc/index.html",
        "slpd/curves.svg",
        "dino/region_vit.pt",
        "atlas/index.html",
        "eval/report.html",
        "predictions/pages/index.html",
    ):
        assert (config.out / name).exists(), name
    new = {row["slide_id"]: row["patient_id"] for row in read_csv(config.out / "predictions" / "predictions.csv")}
    assert len(set(new.values())) == len(new) == 2
    assert not set(new.values()) & {row["patient_id"] for row in read_csv(config.out / "cohort.csv")}
    document = metrics(config.out / "eval")
    assert document["external"]["cohort"]["patients"] == 2
    assert [each["name"] for each in document["representations"]] == ["mean-tokens", "dino", "slpd", "truth"]

    def no_more(*_: object) -> int:
        raise AssertionError("everything is there already")

    monkeypatch.setattr(mil_eval, "run", no_more)
    monkeypatch.setattr(predict, "run", no_more)
    assert command.run(config) == 0  # says it all again
    assert "The highest mean is that of" in capsys.readouterr().err
