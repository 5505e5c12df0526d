"""`slpd study`: from a cohort of slides to a report that compares representations. Every stage is another command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from slpd_toolkit.commands.study.cohort import read_cohort
from slpd_toolkit.commands.study.plan import print_plan
from slpd_toolkit.commands.study.stages import make_stages
from slpd_toolkit.config import study_stages
from slpd_toolkit.config.recipe import as_recipe
from slpd_toolkit.config.study_stages import EVALUATION, HEATMAPS, TOKENS, StagePaths
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog, read_failures
from slpd_toolkit.core.files import claim_folder, sha256, write_text
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.core.text import count
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.report.study_answer import read_answer
from slpd_toolkit.report.study_page import INDEX, StageRow, StudyPage, write_study_page
from slpd_toolkit.representations.sources import Kind, parse_sources
from slpd_toolkit.training.run_folder import CURVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.commands.study.cohort import StudyCohort
    from slpd_toolkit.commands.study.stages import Stage
    from slpd_toolkit.config.study import StudyConfig
    from slpd_toolkit.report.study_answer import Answer

RECIPE = "study.toml"
_FIRST_SIGNAL = 128
_FREE = ("out", "plan", "device", "jobs")
"""Settings that do not determine the results."""


@locks_folder("study")
def run(config: StudyConfig) -> int:
    """Run all stages, or resume an earlier study in the same folder.

    All inputs are checked before anything is computed. A stage that fails does not stop those that do not need it.

    Returns:
        0; 1 if slides or stages failed, all of which failures.csv lists; 128 plus the number of the signal if a stage
        was stopped by one and has saved its state.

    Raises:
        UsageError: The manifest, the target, the hold-out or another setting is invalid, the folder contains another
            study, or another process uses it; nothing was started.
    """
    return study(config)


def study(config: StudyConfig) -> int:
    """Do the work of `run`, in a folder that is already locked."""
    tables = _check_models(config)
    cohort = read_cohort(config, [TOKENS, *config.model])
    stages = make_stages(config, cohort, tables)
    _check_settings(config)
    _claim(config)
    cohort.write(StagePaths.of(config))
    if config.plan is not None:
        return print_plan(config, cohort, tables)
    for note in cohort.notes:
        console.note(f"note: {note}")
    inside, held_out = cohort.patients
    console.note(
        f"{count(len(cohort.table), 'slide')} of {count(inside + held_out, 'patient')} with a target: "
        + (
            f"{held_out} are held out: not used for any training, and predicted once at the end."
            if held_out
            else "none held out."
        )
    )
    outcomes: dict[str, str] = {}
    failures: list[Failure] = []
    for number, stage in enumerate(stages, start=1):
        title, begun = f"{number}/{len(stages)} {stage.name}", time.monotonic()
        if stage.is_done():
            console.note(f"{title}: already done")
            continue
        console.note(f"{title}: {stage.about}")
        reason = stage.missing()
        if not reason:
            with console.step(title):
                code, failure = _run_stage(stage)
            if code >= _FIRST_SIGNAL:
                console.note(f"{title}: stopped. Run the same command again to resume.")
                return code
            outcomes[stage.name] = "failed" if failure else "some slides failed" if code else ""
            failures += [failure] if failure else []
        else:
            outcomes[stage.name] = f"not started: {reason}"
            failures.append(
                Failure(stage.name, "", str(stage.folder), f"Not started: {reason}", "See the failures above.")
            )
        said = outcomes[stage.name] or f"done in {console.human_seconds(time.monotonic() - begun)}"
        console.note(f"{title}: {said}")
    return _report(config, cohort, stages, outcomes, failures)


def _run_stage(stage: Stage) -> tuple[int, Failure | None]:
    """Run a stage; return its exit code, and the failure that ended it, if any."""
    try:
        return stage.work(stage.settings()), None
    except (SlpdError, OSError) as error:
        failure = Failure.of(stage.name, "", stage.folder, error)
        console.warn(f"{stage.name}: {failure.error} {failure.hint}".rstrip())
        return 1, failure


def _check_models(config: StudyConfig) -> list[str]:
    """Check --model and --cache before hours of work; return the models that are tables, as `name=path`.

    Raises:
        UsageError: A model cannot be evaluated, or the cache does not exist.
    """
    if config.cache is not None and not config.cache.is_dir():
        raise UsageError(f"--cache: {config.cache} is not a folder.", hint="Leave it out to embed the slides.")
    sources = parse_sources([TOKENS, *config.model])
    taken = sorted({source.name for source in sources} & {study_stages.DINO, study_stages.SLPD})
    if taken:
        raise UsageError(
            f"--model: the name {', '.join(taken)} is already used by a model of the study.",
            hint="Rename it: other-name=source.",
        )
    given = {source.name for source in sources[1:]}
    unknown = sorted(set(config.ceiling) - given)
    if unknown:
        raise UsageError(
            f"--ceiling: {', '.join(unknown)} is not the name of a --model.",
            hint=f"Names of --model: {', '.join(sorted(given)) or 'none given'}.",
        )
    without = [source.name for source in sources if source.kind in {Kind.SLIDE_VIT, Kind.MEAN_OF_STAINS}]
    if without and config.holds_out:
        raise UsageError(
            f"--model {', '.join(without)}: slide ViTs and means over stain views cannot be applied to held-out "
            "patients.",
            hint="Write them with `slpd represent` and pass them as a table, or use --holdout 0.",
        )
    return [f"{source.name}={source.path}" for source in sources if source.kind is Kind.TABLE]


def _check_settings(config: StudyConfig) -> None:
    """Resolve the settings of the stages that do not depend on earlier ones, including their recipes.

    Raises:
        UsageError: A recipe or a value is invalid.
    """
    if config.cache is None:
        study_stages.embedding(config)
    study_stages.pretraining(config, prototypes=True)


def _claim(config: StudyConfig) -> None:
    """Create the folder, or check that the study in it has the same settings and manifest.

    Raises:
        UsageError: It contains another study, or files that the study would replace.
    """
    paths = StagePaths.of(config)
    claim_folder(config.out, (RECIPE, study_stages.MANIFEST, study_stages.HELD_OUT_MANIFEST, INDEX, FILENAME))
    wanted = _identity(config)
    recipe = config.out / RECIPE
    if recipe.exists():
        _require_same(config.out, recipe.read_text(encoding="utf-8"), wanted)
        return
    own = [
        config.out / name for name in (study_stages.DINO, study_stages.SLPD, EVALUATION, study_stages.ATLAS, HEATMAPS)
    ]
    own += [paths.manifest, paths.held_out, config.out / INDEX] + ([] if config.cache else [paths.cache])
    present = [path.name for path in own if path.exists()]
    if present:
        raise UsageError(
            f"--out: {config.out} is not a study and already contains {', '.join(present)}.",
            hint="Choose a new folder.",
        )
    write_text(recipe, toml_text(wanted))


def _identity(config: StudyConfig) -> dict[str, Any]:
    """Return the settings that determine the results, with absolute paths, and the digest of the manifest."""
    values = {name: value for name, value in as_recipe(config).items() if name not in _FREE}
    for name in ("manifest", "slides_root", "cache", "weights"):
        if name in values:
            values[name] = str(getattr(config, name).resolve())
    return values | {"manifest_sha256": sha256(config.manifest)}


def _require_same(out: Path, text: str, wanted: dict[str, Any]) -> None:
    import tomllib

    found = tomllib.loads(text)
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if differing == ["manifest_sha256"]:
        raise UsageError(
            f"--out: the manifest has changed since the study in {out} was started.",
            hint="Use a different --out (with --cache for existing tokens), or restore the manifest.",
        )
    if differing:
        got, asked = (
            ", ".join(f"{name} = {values.get(name, 'not set')}" for name in differing) for values in (found, wanted)
        )
        raise UsageError(
            f"--out: {out} contains a study with {got}; requested: {asked}.",
            hint="Use the same settings to resume it, or a different --out.",
        )


def _report(
    config: StudyConfig,
    cohort: StudyCohort,
    stages: Sequence[Stage],
    outcomes: dict[str, str],
    failures: Sequence[Failure],
) -> int:
    """Write failures.csv and index.html, print the answer, and return the exit code."""
    log = FailureLog(config.out / FILENAME)
    for stage in stages:
        for row in read_failures(stage.folder).to_dict("records"):
            log.add(Failure(**{str(name): value for name, value in row.items()}))
    for failure in failures:
        log.add(failure)
    found = read_answer(config.out / EVALUATION, config.ceiling) if outcomes.get("evaluation", "") == "" else None
    page = StudyPage(
        f"{config.manifest.stem}: {config.target}",
        _size(cohort, found, failed=bool(log.rows)),
        found,
        [
            StageRow(stage.name, stage.about, outcomes.get(stage.name, ""), stage.report, _command(stage))
            for stage in stages
        ],
        log.rows,
        cohort.notes,
    )
    figures = [
        (config.out / EVALUATION / "figures" / "intervals.svg", "Cross-validation: mean over folds and 95 % interval."),
        (config.out / study_stages.SLPD / CURVES, "Pretraining of SLPD: losses and the entropy of the teacher."),
    ]
    write_study_page(config.out, page, figures, config.out / HEATMAPS)
    if found is not None:
        console.table(
            f"{config.target}: {found.metric}",
            [
                {"model, aggregator": f"{row.model}, {row.aggregator}", "cross-validation": row.inside}
                | ({"held out": row.held_out} if row.held_out else {})
                for row in found.rows
            ],
        )
        for sentence in found.sentences:
            console.note(sentence)
    if log.rows:
        console.warn(f"{count(len(log.rows), 'failure')}: {log.path} lists the reasons and what to do.")
    console.note(f"Everything: {config.out / INDEX}.")
    return 1 if log.rows else 0


def _size(cohort: StudyCohort, found: Answer | None, *, failed: bool) -> str:
    """Count the evaluated slides and patients, and those that could not be evaluated; the planned ones before that."""
    planned = len(cohort.evaluated_inside) + len(cohort.evaluated_held_out)
    slides, (inside, held_out) = (found.slides, found.patients) if found else (planned, cohort.patients)
    text = f"{count(slides, 'slide')}; {count(inside, 'patient')} in cross-validation, {held_out} held out."
    if slides == planned:
        return text
    lost = sum(cohort.patients) - inside - held_out
    patients = f", among them all slides of {count(lost, 'patient')}" if lost else ""
    why = "see the failures below" if failed else "the cache does not contain them"
    return f"{text} Not evaluated: {count(planned - slides, 'slide')}{patients} ({why})."


def _command(stage: Stage) -> str:
    """Return the command of a stage, as shell text; the reason if its settings depend on a stage that failed."""
    try:
        return stage.command_line()
    except SlpdError as error:
        return f"# {stage.name}: {error.message}"
