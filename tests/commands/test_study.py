"""`slpd study`: bad input before work, every stage after an interruption, failures of stages, and the same by hand."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.commands import heatmap, mil_eval, pretrain, prototypes
from slpd_toolkit.commands import study as command
from slpd_toolkit.commands.study.cohort import read_cohort
from slpd_toolkit.commands.study.slurm import write_jobs
from slpd_toolkit.commands.study.stages import make_stages
from slpd_toolkit.config import study_stages as stages
from slpd_toolkit.config.auto_recipe import CohortSize, choose_settings
from slpd_toolkit.config.settings import flatten
from slpd_toolkit.config.study import StudyConfig
from slpd_toolkit.core.errors import TrainingError, UsageError
from slpd_toolkit.training.fitting import choose_for
from tests.api.place import TINY_RECIPE
from tests.cohorts import read_csv, write_manifest
from tests.evaluations import metrics
from tests.token_factory import write_cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLIDES = 20
WORK = {"DINO": pretrain, "evaluation": mil_eval, "prototypes": prototypes, "heatmaps": heatmap}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token cache of 20 slides of 20 patients of two classes and five sites; must not be modified."""
    folder = tmp_path_factory.mktemp("study")
    write_cache(folder / "cache", (4,) * SLIDES)
    rows = [
        {
            "slide_id": f"slide{number:03}",
            "slide_path": f"{number}.svs",
            "patient_id": f"P{number:03}",
            "label": "ab"[number % 2],
            "site": f"s{number // 2 % 5}",
            "split": "test" if number < 6 else "train",
        }
        for number in range(SLIDES)
    ]
    write_manifest(folder / "cohort.csv", rows)
    (folder / "tiny.toml").write_text(TINY_RECIPE)
    (folder / "eval.toml").write_text("steps = 40\npermutations = 50\nrepeats = 1\n")
    return folder


def config(place: Path, out: Path, **changes: Any) -> StudyConfig:
    given: dict[str, Any] = {
        "manifest": place / "cohort.csv",
        "cache": place / "cache",
        "out": out,
        "pretrain_recipe": str(place / "tiny.toml"),
        "eval_recipe": place / "eval.toml",
        "epochs": 1,
        "folds": 3,
        "aggregator": ("abmil",),
        "device": "cpu",
        "jobs": 1,
    }
    return StudyConfig(**(given | changes))


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: object) -> int:
        raise AssertionError("work was started")

    for module in WORK.values():
        monkeypatch.setattr(module, "run", stop)


def changed(place: Path, tmp_path: Path, **cells: Callable[[int, dict[str, str]], str]) -> Path:
    rows = read_csv(place / "cohort.csv")
    for number, row in enumerate(rows):
        row |= {name: make(number, row) for name, make in cells.items()}
    return write_manifest(tmp_path / "changed.csv", rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "grade"}, "column grade not found"),
        ({"holdout_column": "part"}, "has no column part"),
        ({"holdout_column": "split", "holdout_value": ("no",)}, "no slide has the value no; found test, train"),
        ({"by_site": True}, "no sites can be held out|at least|require"),
        ({"folds": 30}, "30 folds require at least 30 patients per class"),
        ({"model": ("absent",)}, "absent does not exist"),
        ({"model": ("slpd=mean-tokens",)}, "the name slpd is already used by a model of the study"),
        ({"model": ("mean-of-stains",)}, "means over stain views cannot be applied to held-out"),
        ({"ceiling": ("truth",)}, "--ceiling: truth is not the name of a --model"),
        ({"pretrain_recipe": "lung"}, "Recipe lung: no such file"),
        ({"classes": ("a",)}, "not in --classes"),
    ],
)
def test_bad_input_is_refused_before_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    no_work(monkeypatch)
    if "by_site" in changes:
        changes |= {"site_column": "split"}
    with pytest.raises(UsageError, match=said):
        command.run(config(place, tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "study.toml").exists()


def test_one_class_and_too_few_patients_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    single = changed(place, tmp_path, label=lambda *_: "a")
    with pytest.raises(UsageError, match="There must be two or more classes"):
        command.run(config(place, tmp_path / "out", manifest=single))
    few = changed(place, tmp_path, patient_id=lambda number, _: f"Q{number % 6}")
    with pytest.raises(UsageError, match="at least 4 patients per class"):
        command.run(config(place, tmp_path / "out", manifest=few))


@pytest.mark.slow
def test_a_folder_of_another_study_or_of_something_else_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "run", lambda _: 143)  # as SIGTERM ends it
    own = changed(place, tmp_path)
    assert command.run(config(place, tmp_path / "out", manifest=own)) == 143
    with pytest.raises(UsageError, match=r"contains a study with folds = 3, seed = 0; requested: folds = 4, seed = 1"):
        command.run(config(place, tmp_path / "out", manifest=own, folds=4, seed=1))
    changed(place, tmp_path, note=lambda *_: "x")
    with pytest.raises(UsageError, match="the manifest has changed since the study"):
        command.run(config(place, tmp_path / "out", manifest=own))
    (tmp_path / "thesis" / "eval").mkdir(parents=True)
    with pytest.raises(UsageError, match="is not a study and already contains eval"):
        command.run(config(place, tmp_path / "thesis"))


def test_held_out_patients_are_the_same_in_the_manifest_and_as_external_cohort(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "run", lambda _: 143)
    command.run(config(place, tmp_path / "out", holdout_column="split"))
    parts = {row["slide_id"]: row["study_part"] for row in read_csv(tmp_path / "out" / "manifest.csv")}
    held = {row["slide_id"] for row in read_csv(tmp_path / "out" / "held-out.csv")}
    assert held == {slide for slide, part in parts.items() if part == "held-out"} == {f"slide{n:03}" for n in range(6)}


def numbers(evaluation: Path) -> dict[str, Any]:
    """Return all numbers of an evaluation; digests of weights files differ with the time of writing."""
    return {name: value for name, value in metrics(evaluation).items() if name != "recipe"}


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slpd_toolkit.commands.pretrain.draw_curves", lambda path, _rows: path.write_text("<svg/>"))
    monkeypatch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text("<p/>"))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_it_resumes_after_a_kill_at_every_boundary_and_does_the_same_by_hand(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = config(place, tmp_path / "study", heatmaps=2)
    ran: list[str] = []

    def killed_at(real: Callable[[Any], int], folder: str) -> Callable[[Any], int]:
        def run(settings: Any) -> int:
            if settings.out.name == folder:
                raise KeyboardInterrupt
            ran.append(settings.out.name)
            return real(settings)

        return run

    folders = ["dino", "slpd", "eval", "atlas", "heatmaps"]
    for folder in folders:
        with monkeypatch.context() as patched:
            for module in WORK.values():
                patched.setattr(module, "run", killed_at(module.run, folder))
            with pytest.raises(KeyboardInterrupt):
                command.run(given)
    assert ran == folders[:-1]
    assert command.run(given) == 1  # the heatmaps lack the pixels of the slides
    page = (tmp_path / "study" / "index.html").read_text()
    assert "The highest mean is that of" in page
    assert "The highest mean is that of" in capsys.readouterr().err
    assert {row["stage"] for row in read_csv(tmp_path / "study" / "failures.csv")} == {"prototypes", "heatmap"}
    compared = metrics(tmp_path / "study" / "eval")["external"]["comparisons"]
    assert [(each["first"], each["second"]) for each in compared] == [
        ("mean-tokens", "dino"),
        ("mean-tokens", "slpd"),
        ("dino", "slpd"),
    ]
    assert "On the 4 held-out patients, no difference could be shown: they are too few for 3 comparisons." in page

    study = tmp_path / "study"
    by_hand = page.partition("<pre>")[2].partition("</pre>")[0]
    commands = [shlex.split(text) for text in by_hand.replace("&#39;", "'").replace("\\\n", " ").strip().split("\n\n")]
    before = numbers(study / "eval")
    for name in ("dino", "slpd", "eval"):
        (study / name).rename(tmp_path / name)
    for words in commands[:3]:
        done = CliRunner().invoke(cli.app, words[1:])
        assert done.exit_code == 0, done.output
    assert numbers(study / "eval") == before


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_stage_that_fails_does_not_stop_the_others_and_is_made_up_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(place, tmp_path / "study", aggregator=("knn",))
    train = pretrain.run

    def fails(settings: Any) -> int:
        if settings.out.name == "slpd":
            raise TrainingError("The loss is not finite.", hint="Lower --lr.")
        return train(settings)

    monkeypatch.setattr(pretrain, "run", fails)
    assert command.run(given) == 1
    failures = read_csv(tmp_path / "study" / "failures.csv")
    assert [(row["stage"], row["error"]) for row in failures] == [
        ("SLPD", "The loss is not finite."),
        ("prototypes", "Not started: SLPD has no prototypes."),
    ]
    names = [each["name"] for each in metrics(tmp_path / "study" / "eval")["representations"]]
    assert names == ["mean-tokens", "dino"]
    monkeypatch.setattr(pretrain, "run", train)
    command.run(given)
    names = [each["name"] for each in metrics(tmp_path / "study" / "eval")["representations"]]
    assert names == ["mean-tokens", "dino", "slpd"]
    assert "Lower --lr" not in (tmp_path / "study" / "index.html").read_text()


@pytest.mark.parametrize(
    ("regions", "grid"), [((50,) * 600, 16), ((20,) * 300, 16), ((4,) * 20, 4), ((1,) * 8, 8), ((1, 90), 1)]
)
def test_both_runs_get_the_settings_of_the_recipe_auto(
    place: Path, tmp_path: Path, regions: tuple[int, ...], grid: int
) -> None:
    size = CohortSize(regions, grid)
    given = config(place, tmp_path, pretrain_recipe="auto", epochs=0)
    dino, slpd = (flatten(choose_for(stages.pretraining(given, prototypes=each), size)[0]) for each in (False, True))
    assert {name for name in slpd if slpd[name] != dino[name]} == {"out", "intra_weight", "inter_weight"}
    assert all(slpd[name] == choice.value for name, choice in choose_settings(size).items())


def test_a_shorter_run_still_uses_prototypes(place: Path, tmp_path: Path) -> None:
    def length(recipe: str, epochs: int) -> tuple[int, int, int]:
        found = stages.pretraining(config(place, tmp_path, pretrain_recipe=recipe, epochs=epochs), prototypes=True)
        slpd, _ = choose_for(found, CohortSize((40,) * 100, 16))
        assert slpd.uses_prototypes
        return slpd.epochs, slpd.optimisation.warmup_epochs, slpd.prototypes.prototype_epoch

    assert length("small-cohort", 20) == (20, 2, 8)
    assert length("small-cohort", 1) == (1, 1, 0)
    assert length("auto", 20) == (20, 2, 8)
    assert length("auto", 1) == (1, 1, 0)


@pytest.mark.slow
def test_a_plan_is_printed_and_its_jobs_are_submitted_in_order(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    out = tmp_path / "out"
    words = ["study", str(place / "cohort.csv"), "--cache", str(place / "cache"), "--out", str(out), "--device", "cpu"]
    words += ["--pretrain-recipe", str(place / "tiny.toml"), "--eval-recipe", str(place / "eval.toml"), "--plan"]
    printed = CliRunner().invoke(cli.app, words)
    assert printed.exit_code == 0, printed.output
    assert "evaluation" in printed.output
    assert not (out / "slurm").exists()
    assert CliRunner().invoke(cli.app, [*words, "slurm"]).exit_code == 0

    stub = tmp_path / "bin" / "sbatch"
    stub.parent.mkdir()
    calls = tmp_path / "calls"
    last = 'set -- "${@: -1}"\nbash -n "$1" && echo "id-${1%%.*}"\n'
    stub.write_text(f'#!/bin/bash\necho "$@" >> {calls}\n{last}')
    stub.chmod(0o755)
    path = f"{stub.parent}:{os.environ['PATH']}"
    subprocess.run(["bash", str(out / "slurm" / "submit.sh")], check=True, env=os.environ | {"PATH": path})
    assert calls.read_text().splitlines() == [
        "--parsable DINO.sbatch",
        "--parsable SLPD.sbatch",
        "--parsable --dependency=afterany:id-DINO:id-SLPD evaluation.sbatch",
        "--parsable --dependency=afterany:id-SLPD prototypes.sbatch",
        "--parsable --dependency=afterany:id-evaluation heatmaps.sbatch",
        "--parsable --dependency=afterany:id-DINO:id-SLPD:id-evaluation:id-prototypes:id-heatmaps report.sbatch",
    ]
    got: list[Any] = []

    def take(settings: Any) -> int:
        got.append(settings)
        return 0

    monkeypatch.setattr(pretrain, "run", take)
    for name in ("DINO", "SLPD"):
        text = (out / "slurm" / f"{name}.sbatch").read_text().partition("\n\n")[2].replace("\\\n", " ")
        assert text.startswith("exec slpd pretrain ")
        assert CliRunner().invoke(cli.app, shlex.split(text)[2:]).exit_code == 0
    given = StudyConfig(
        manifest=place / "cohort.csv",
        cache=place / "cache",
        out=out,
        device="cpu",
        pretrain_recipe=str(place / "tiny.toml"),
    )
    assert got == [stages.pretraining(given, prototypes=each) for each in (False, True)]


def test_the_slides_are_embedded_by_an_array_if_they_take_hours(place: Path, tmp_path: Path) -> None:
    given = StudyConfig(manifest=place / "cohort.csv", out=tmp_path / "out")
    cohort = read_cohort(given, ["mean-tokens"])
    made = make_stages(given, cohort, (), planned=True)
    folder = write_jobs(given, made, {stage.name: (9000.0, 4000.0) for stage in made})
    script = (folder / "embed.sbatch").read_text()
    assert "#SBATCH --array=1-3" in script
    assert "--shard $SLURM_ARRAY_TASK_ID/3" in script
    assert "#SBATCH --gres=gpu:1" in script
    assert "--shard" not in (folder / "embed-all.sbatch").read_text()
    assert "afterany:$embed embed-all.sbatch" in (folder / "submit.sh").read_text()
