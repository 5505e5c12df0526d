"""`slpd demo`: its settings, its folder, and a small run of all steps, also after an interruption."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands import demo as command
from slpd_toolkit.commands import mil_eval, pretrain
from slpd_toolkit.config.demo import DemoConfig
from slpd_toolkit.config.settings import flatten
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.demo.cohort_plan import plan_cohort
from slpd_toolkit.demo.painting import paint_cohort
from slpd_toolkit.report import evaluation_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.demo.cohort_plan import PlannedSlide


@pytest.mark.parametrize("slides", [-1, 1, 9])
def test_too_few_slides_are_refused(tmp_path: Path, slides: int) -> None:
    with pytest.raises(UsageError, match=f"--slides: got {slides}, allowed: at least 10, or 0"):
        DemoConfig(out=tmp_path, slides=slides)


def test_tiny_sets_what_is_not_given(tmp_path: Path) -> None:
    tiny, full = DemoConfig(out=tmp_path, tiny=True), DemoConfig(out=tmp_path)
    assert (tiny.slide_count, tiny.epoch_count) < (full.slide_count, full.epoch_count)
    assert DemoConfig(out=tmp_path, tiny=True, slides=12, epochs=3).slide_count == 12


def test_dino_differs_from_slpd_in_the_prototype_losses_alone(tmp_path: Path) -> None:
    config = DemoConfig(out=tmp_path)
    slpd, dino = command.slpd_settings(config), command.dino_settings(config)
    ours, theirs = flatten(slpd), flatten(dino)
    assert ours.keys() == theirs.keys()
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"out", "intra_weight", "inter_weight"}
    assert slpd.uses_prototypes
    assert not dino.uses_prototypes


@pytest.mark.parametrize("slides", [10, 13, 48])
def test_folds_are_no_more_than_the_rarer_class_has_patients(slides: int) -> None:
    planned = plan_cohort(slides, 0, 2)
    folds = command.folds_of(planned)
    assert 3 <= folds <= 5
    for label in ("inflamed", "excluded"):
        assert folds <= len({slide.patient_id for slide in planned if slide.label == label})


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
    assert "6/7 atlas" in printed.err
    assert "true mixture" in printed.out
    assert "SLPD vs. DINO" in printed.err
    for name in (
        "cache/qc/index.html",
        "slpd/curves.svg",
        "dino/region_vit.pt",
        "atlas/index.html",
        "predictions/pages/index.html",
        "eval/report.html",
    ):
        assert (config.out / name).exists(), name
    document = json.loads((config.out / "eval" / evaluation_folder.METRICS).read_text())
    assert document["cohort"]["slides"] == 10
    assert {each["name"] for each in document["representations"]} == set(command.NAMES)

    def no_more(*_: object) -> int:
        raise AssertionError("everything is there already")

    monkeypatch.setattr(mil_eval, "run", no_more)
    assert command.run(config) == 0  # says it all again
    assert "SLPD vs. DINO" in capsys.readouterr().err
