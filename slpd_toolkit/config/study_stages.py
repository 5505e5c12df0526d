"""The stages of a study: the settings that each command runs with. Files in one folder connect them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.prototypes import PrototypesConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.config.study import StudyConfig

CACHE, DINO, SLPD, EVALUATION, ATLAS, HEATMAPS = "cache", "dino", "slpd", "eval", "atlas", "heatmaps"
MANIFEST, HELD_OUT_MANIFEST = "manifest.csv", "held-out.csv"
PART, INSIDE, HELD_OUT = "study_part", "inside", "held-out"
"""Column that the study adds to its copy of the manifest, and its values."""
TOKENS = "mean-tokens"
EMBED = "embed"
"""Name of the first stage, in messages, job scripts and failures.csv."""


@dataclass(frozen=True)
class StagePaths:
    """Folders of a study."""

    out: Path
    cache: Path

    @classmethod
    def of(cls, config: StudyConfig) -> "StagePaths":
        """Return the folders of a study."""
        return cls(config.out, config.cache or config.out / CACHE)

    @property
    def manifest(self) -> Path:
        """The manifest with the column `study_part`."""
        return self.out / MANIFEST

    @property
    def held_out(self) -> Path:
        """The manifest of the held-out patients."""
        return self.out / HELD_OUT_MANIFEST


def embedding(config: StudyConfig) -> EmbedConfig:
    """Return the settings of `slpd embed`."""
    flags = {
        "manifest": config.manifest,
        "out": StagePaths.of(config).cache,
        "slides_root": config.slides_root,
        "weights": config.weights,
        "device": _unless(config.device, "auto"),
    }
    named_by_recipe = config.embed_recipe is not None and config.encoder == StudyConfig.encoder
    return build(EmbedConfig, flags | ({} if named_by_recipe else {"encoder": (config.encoder,)}), config.embed_recipe)


def pretraining(config: StudyConfig, *, prototypes: bool) -> PretrainConfig:
    """Return the settings of `slpd pretrain`; those of the recipe `auto` are chosen when the run starts.

    Args:
        config: The study.
        prototypes: Whether the prototype losses are used (SLPD); otherwise DINO alone, with equal settings.
    """
    paths = StagePaths.of(config)
    flags: dict[str, Any] = {
        "cache": paths.cache,
        "out": config.out / (SLPD if prototypes else DINO),
        "manifest": paths.manifest,
        "where": (f"{PART}={INSIDE}",),
        "device": _unless(config.device, "auto"),
        "seed": config.seed or None,
    }
    without = {} if prototypes else {"intra_weight": 0.0, "inter_weight": 0.0}
    recipe = Path(config.pretrain_recipe)
    found = build(PretrainConfig, flags | without, recipe)
    if not config.epochs:
        return found
    if "epochs" in found.auto:  # the others that depend on it are chosen with it
        return build(PretrainConfig, flags | without | {"epochs": config.epochs}, recipe)
    return _with_epochs(found, config.epochs)


def _with_epochs(config: PretrainConfig, epochs: int) -> PretrainConfig:
    """Shorten or lengthen a run: its warm-up and its epochs without prototypes keep their proportion."""
    share = epochs / config.epochs
    warmup = round(config.optimisation.warmup_epochs * share)
    first = round(config.prototypes.prototype_epoch * share)
    return replace(
        config,
        epochs=epochs,
        optimisation=replace(config.optimisation, warmup_epochs=min(max(1, warmup), epochs)),
        prototypes=replace(config.prototypes, prototype_epoch=min(first, epochs - 1)),
    )


def evaluation(config: StudyConfig, folds: int, models: Sequence[str], tables: Sequence[str] = ()) -> MilEvalConfig:
    """Return the settings of `slpd mil-eval`: cross-validation inside, and once on the held-out patients.

    Args:
        config: The study.
        folds: Number of folds.
        models: The models to evaluate.
        tables: Models that are tables of vectors, `name=path`, which also contain the held-out patients.
    """
    paths = StagePaths.of(config)
    external = {"external": (str(paths.cache), *tables), "external_manifest": paths.held_out}
    flags: dict[str, Any] = {
        "cache": paths.cache,
        "manifest": paths.manifest,
        "where": (f"{PART}={INSIDE}",),
        "model": tuple(models),
        "out": config.out / EVALUATION,
        "slides_root": config.slides_folder,
        "allow_missing": True,  # the study has reported which targets are missing
        "folds": folds,
        "device": _unless(config.device, "auto"),
        "seed": config.seed or None,
        "jobs": config.jobs or None,
        **(external if config.holds_out else {}),
    }
    return build(MilEvalConfig, flags | target_settings(config), config.eval_recipe)


def target_settings(config: StudyConfig) -> dict[str, Any]:
    """Return the settings of `slpd mil-eval` that name the target, sites and aggregators."""
    return {
        "task": _unless(config.task, "auto"),
        "target": (config.target,),
        "classes": config.classes or None,
        "time_column": config.time_column,
        "event_column": config.event_column,
        "by_site": config.by_site or None,
        "site_column": _unless(config.site_column, "site"),
        "aggregator": config.aggregator,
    }


def atlas(config: StudyConfig) -> PrototypesConfig:
    """Return the settings of `slpd prototypes`."""
    return PrototypesConfig(
        run=config.out / SLPD,
        out=config.out / ATLAS,
        manifest=StagePaths.of(config).manifest,
        slides_root=config.slides_folder,
        limit=config.heatmaps,
    )


def heatmaps(config: StudyConfig) -> HeatmapConfig:
    """Return the settings of `slpd heatmap`."""
    return HeatmapConfig(
        scores=config.out / EVALUATION,
        out=config.out / HEATMAPS,
        best=True,
        manifest=StagePaths.of(config).manifest,
        slides_root=config.slides_folder,
        limit=config.heatmaps,
        jobs=config.jobs,
    )


def _unless(value: str, default: str) -> str | None:
    """Return None for the default, so that a recipe's value is kept."""
    return None if value == default else value
