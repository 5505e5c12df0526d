"""The stages of a study: what each runs, whether it is complete, and which others it needs."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slpd_toolkit.commands import embed, heatmap, mil_eval, pretrain, prototypes
from slpd_toolkit.commands.study.needs import has_attention
from slpd_toolkit.config import study_stages as settings
from slpd_toolkit.config.command_line import command_line
from slpd_toolkit.config.recipe import RECIPE, as_recipe
from slpd_toolkit.config.study_stages import ATLAS, DINO, EMBED, EVALUATION, HEATMAPS, SLPD, TOKENS, StagePaths
from slpd_toolkit.core.failures import read_failures
from slpd_toolkit.ingest.embedding.lane import QC_FOLDER
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.report import evaluation_folder
from slpd_toolkit.report.qc import CONTACT_SHEET
from slpd_toolkit.report.scores import FILENAME as SCORES
from slpd_toolkit.report.scores import read_scores
from slpd_toolkit.store.token_file import token_paths
from slpd_toolkit.training.run_folder import CURVES, PROTOTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slpd_toolkit.commands.study.cohort import StudyCohort
    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.config.study import StudyConfig

_MACHINE = frozenset({"device", "precision", "jobs", "workers", "task", "slides_root"})
"""Settings that an evaluation resolves, or that do not affect its result."""


@dataclass(frozen=True)
class Stage:
    """One stage of a study."""

    name: str
    about: str
    command: str
    """The command that it runs."""
    argument: str
    """Setting of the command that is its positional argument."""
    recipe: Path | None
    """Recipe that its settings are built with."""
    folder: Path
    report: Path
    """Result for readers."""
    settings: Callable[[], Any]
    """Returns the settings of the command; reads the results of earlier stages."""
    work: Callable[[Any], int]
    is_done: Callable[[], bool]
    missing: Callable[[], str]
    """Returns why the stage cannot start; empty if it can."""

    def command_line(self) -> str:
        """Return the equivalent command as shell text.

        Raises:
            SlpdError: The settings depend on a stage that failed.
        """
        return command_line(self.command, self.settings(), (self.argument,), self.recipe)


def make_stages(
    config: StudyConfig,
    cohort: StudyCohort,
    tables: Sequence[str],
    *,
    planned: bool = False,
) -> list[Stage]:
    """Return the stages in order.

    Args:
        config: The study.
        cohort: Its slides.
        tables: Models that are tables of slide vectors, `name=path`.
        planned: Whether the settings are those of a study in which every stage succeeds, before it is run.
    """
    paths = StagePaths.of(config)
    runs = {DINO: config.out / DINO, SLPD: config.out / SLPD}

    def evaluating(names: Sequence[str] = (DINO, SLPD)) -> MilEvalConfig:
        models = [TOKENS, *(f"{name}={runs[name]}" for name in names), *config.model]
        return settings.evaluation(config, cohort.folds, models, tables)

    def no_tokens() -> str:
        return "" if token_paths(paths.cache) else f"there are no tokens in {paths.cache}."

    def trained() -> list[str]:
        return [name for name, run in runs.items() if (run / CURVES).exists()]

    def run_stage(name: str, folder: str, about: str) -> Stage:
        run = runs[folder]
        return Stage(
            name,
            about,
            "pretrain",
            "cache",
            Path(config.pretrain_recipe),
            run,
            run / CURVES,
            lambda: settings.pretraining(config, prototypes=folder == SLPD),
            pretrain.run,
            lambda: (run / CURVES).exists() and (run / REGION_VIT).exists(),
            no_tokens,
        )

    report = config.out / EVALUATION / evaluation_folder.REPORT
    stages = [
        Stage(
            EMBED,
            "embedding each patch with a frozen encoder",
            "embed",
            "manifest",
            config.embed_recipe,
            paths.cache,
            paths.cache / QC_FOLDER / CONTACT_SHEET,
            lambda: settings.embedding(config),
            embed.run,
            lambda: _is_embedded(paths.cache, cohort),
            str,
        ),
        run_stage("DINO", DINO, "training a region ViT by self-distillation"),
        run_stage("SLPD", SLPD, "training a region ViT with slide prototypes"),
        Stage(
            "evaluation",
            "comparing the representations by cross-validation, and once on the held-out patients",
            "mil-eval",
            "cache",
            config.eval_recipe,
            config.out / EVALUATION,
            report,
            lambda: evaluating() if planned else evaluating(trained()),
            mil_eval.run,
            lambda: _is_evaluated(evaluating(trained()), cohort, [runs[name] / REGION_VIT for name in trained()]),
            no_tokens,
        ),
        Stage(
            "prototypes",
            "drawing each slide's prototypes and their nearest regions",
            "prototypes",
            "run",
            None,
            config.out / ATLAS,
            config.out / ATLAS / "index.html",
            lambda: settings.atlas(config),
            prototypes.run,
            lambda: _is_complete(config.out / ATLAS, config.out / ATLAS / "index.html", runs[SLPD] / PROTOTYPES),
            lambda: "" if (runs[SLPD] / PROTOTYPES).exists() else "SLPD has no prototypes.",
        ),
        Stage(
            "heatmaps",
            "drawing the attention of the best model",
            "heatmap",
            "scores",
            None,
            config.out / HEATMAPS,
            config.out / HEATMAPS,
            lambda: settings.heatmaps(config),
            heatmap.run,
            lambda: _is_drawn(config.out / EVALUATION, config.out / HEATMAPS, config.heatmaps),
            lambda: "" if report.exists() else "there is no evaluation.",
        ),
    ]
    without = {EMBED} if config.cache else set()
    if not any(map(has_attention, config.aggregator)):
        without.add("heatmaps")
    return [stage for stage in stages if stage.name not in without]


def _is_embedded(cache: Path, cohort: StudyCohort) -> bool:
    return set(cohort.table["slide_id"]) <= {path.stem for path in token_paths(cache)}


def _is_evaluated(config: MilEvalConfig, cohort: StudyCohort, weights: Sequence[Path]) -> bool:
    """Whether the evaluation in its folder has these settings, slides and weights."""
    report = config.out / evaluation_folder.REPORT
    if not _is_newer(report, weights):
        return False
    try:
        found = tomllib.loads((config.out / RECIPE).read_text(encoding="utf-8"))
        document = json.loads((config.out / evaluation_folder.METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = as_recipe(config)
    if any(found.get(name) != value for name, value in wanted.items() if name not in _MACHINE):
        return False
    assert config.cache is not None
    embedded = {path.stem for path in token_paths(config.cache)}
    return bool(document["cohort"]["slides"] == len(cohort.evaluated_inside & embedded))


def _is_complete(folder: Path, page: Path, *inputs: Path) -> bool:
    return _is_newer(page, inputs) and read_failures(folder).empty


def _is_drawn(evaluation: Path, folder: Path, limit: int) -> bool:
    """Whether every slide has a heatmap that is newer than the scores."""
    scores = evaluation / SCORES
    if not scores.exists():
        return False
    tables = read_scores(scores)
    slides = list(tables[0].slide_ids)[:limit] if tables else []
    pictures = [folder / f"{slide}.png" for slide in slides]
    return all(_is_newer(picture, [scores]) for picture in pictures) and read_failures(folder).empty


def _is_newer(path: Path, inputs: Sequence[Path]) -> bool:
    """Whether a file exists and is at least as new as all of its inputs."""
    if not path.exists():
        return False
    return path.stat().st_mtime_ns >= max((each.stat().st_mtime_ns for each in inputs if each.exists()), default=0)
