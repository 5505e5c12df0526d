"""`slpd demo`: the full pipeline on synthetic slides, in seven steps that mostly run the other commands."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slpd_toolkit.commands import embed, mil_eval, predict, pretrain, prototypes
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.objective import ObjectiveConfig, SlidePrototypesConfig
from slpd_toolkit.config.optimisation import OptimisationConfig
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.prototypes import PrototypesConfig
from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig
from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import claim_folder, write_text
from slpd_toolkit.core.folder_lock import is_lock, locks_folder
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.demo.cohort_plan import plan_cohort
from slpd_toolkit.demo.conclusions import conclude, result_rows
from slpd_toolkit.demo.painting import MANIFEST, SLIDES, TRUTH, paint_cohort
from slpd_toolkit.ingest.embedding.lane import QC_FOLDER
from slpd_toolkit.report import evaluation_folder, prediction_folder
from slpd_toolkit.training.run_folder import CURVES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slpd_toolkit.config.demo import DemoConfig
    from slpd_toolkit.demo.cohort_plan import PlannedSlide

RECIPE = "demo.toml"
CACHE, DINO, SLPD, EVALUATION, ATLAS = "cache", "dino", "slpd", "eval", "atlas"
NEW, PREDICTIONS = "new", "predictions"
"""Slides that nobody trained on, and what is predicted for them."""
NAMES = {"mean-tokens": "mean tokens", "dino": "DINO", "slpd": "SLPD", "truth": "true mixture"}
"""Display names of the evaluated models; the last is an upper bound, computed from the planted truth."""

_SQUARES, _TINY_SQUARES = 3, 2  # along the shorter side of the smallest slide
_MOST_FOLDS = 5
_MOST_SLIDES_OF_TWO = 12
"""The last patient of the cohort may have more slides, and so may the next one."""
_MPP, _REGION_PX, _PATCH_PX = 1.0, 512, 64  # a region is one square of the planted truth


@dataclass(frozen=True)
class Step:
    """One step of the demo."""

    name: str
    about: str
    work: Callable[[], int]


@locks_folder("demo")
def run(config: DemoConfig) -> int:
    """Run all steps, or resume an earlier run in the same folder.

    Returns:
        0, or the exit code of the step that was stopped or partly failed.

    Raises:
        UsageError: The folder contains a demo with different settings, is not writable, or is used by another process.
    """
    _claim(config)
    steps = make_steps(config)
    started = time.monotonic()
    for number, step in enumerate(steps, start=1):
        title, begun = f"{number}/{len(steps)} {step.name}", time.monotonic()
        console.note(f"{title}: {step.about}")
        with console.step(title):
            code = step.work()
        if code:
            return code
        console.note(f"{title}: done in {console.human_seconds(time.monotonic() - begun)}")
    _report_results(config, time.monotonic() - started)
    return 0


def make_steps(config: DemoConfig) -> list[Step]:
    """Return the steps with their settings."""
    out = config.out
    planned = plan_cohort(config.slide_count, config.seed, _TINY_SQUARES if config.tiny else _SQUARES)

    def paint() -> int:
        paint_cohort(planned, out, config.jobs)
        return 0

    def evaluate() -> int:
        done = (out / EVALUATION / evaluation_folder.REPORT).exists()
        return 0 if done else mil_eval.run(evaluation_settings(config, folds_of(planned)))

    return [
        Step("slides", f"generating {len(planned)} synthetic slides with a known truth (pyramidal TIFF)", paint),
        Step("tokens", "embedding each patch with a frozen encoder", lambda: embed.run(embedding_settings(out))),
        Step("DINO", "training a region ViT by self-distillation", lambda: pretrain.run(dino_settings(config))),
        Step("SLPD", "training a region ViT with slide prototypes", lambda: pretrain.run(slpd_settings(config))),
        Step("evaluation", "comparing how well the representations separate the two classes", evaluate),
        Step("atlas", "drawing each slide's prototypes and their nearest regions", lambda: _draw_atlas(out)),
        Step(
            "prediction", "predicting two slides of new patients, whom nothing was trained on", lambda: _predict(config)
        ),
    ]


def new_slides(config: DemoConfig) -> list[PlannedSlide]:
    """Return two small slides of the next two patients, one of each class."""
    cohort = {slide.patient_id for slide in plan_cohort(config.slide_count, config.seed, _TINY_SQUARES)}
    planned = plan_cohort(config.slide_count + _MOST_SLIDES_OF_TWO, config.seed, _TINY_SQUARES)
    first: dict[str, PlannedSlide] = {}
    for slide in planned:
        if slide.patient_id not in cohort:
            first.setdefault(slide.patient_id, slide)
    return list(first.values())[:2]


def prediction_settings(out: Path) -> PredictConfig:
    """Return the settings of the prediction."""
    return PredictConfig(
        bundle=out / EVALUATION,
        manifest=out / NEW / MANIFEST,
        out=out / PREDICTIONS,
        model="slpd",
        aggregator="abmil",
    )


def _predict(config: DemoConfig) -> int:
    if (config.out / PREDICTIONS / prediction_folder.PREDICTIONS).exists():
        return 0
    paint_cohort(new_slides(config), config.out / NEW, config.jobs)
    return predict.run(prediction_settings(config.out))


def embedding_settings(out: Path) -> EmbedConfig:
    """Return the settings of stage one."""
    return EmbedConfig(
        manifest=out / MANIFEST,
        out=out / CACHE,
        encoder=("handcrafted",),
        mpp=_MPP,
        region_px=_REGION_PX,
        patch_px=_PATCH_PX,
    )


def slpd_settings(config: DemoConfig) -> PretrainConfig:
    """Return the settings of stage two, SLPD: small networks, and schedules for a few hundred steps."""
    epochs = config.epoch_count
    return PretrainConfig(
        cache=config.out / CACHE,
        out=config.out / SLPD,
        epochs=epochs,
        batch_size=32,
        prototypes=SlidePrototypesConfig(
            clusters=2 if config.tiny else 3,
            min_regions=2 if config.tiny else 6,
            prototype_epoch=epochs * 2 // 5,
        ),
        crops=CropsConfig(global_side=6, local_side=3, local_crops=6, flip_up_down=0.5, quarter_turns=1.0),
        region_vit=RegionViTConfig(embed_dim=96, depth=2, heads=3),
        dino_head=DinoHeadConfig(hidden_dim=256, bottleneck_dim=64, out_dim=256),
        optimisation=OptimisationConfig(
            lr=0.008, warmup_epochs=max(1, epochs // 10), weight_decay_end=0.1, teacher_momentum=0.99
        ),
        log_every=10,
        seed=config.seed,
    )


def dino_settings(config: DemoConfig) -> PretrainConfig:
    """Return the settings of stage two without the prototype losses, otherwise identical."""
    without = ObjectiveConfig(weights={"intra": 0.0, "inter": 0.0})
    return replace(slpd_settings(config), out=config.out / DINO, objective=without)


def folds_of(planned: Sequence[PlannedSlide]) -> int:
    """Return the number of folds: at most the number of patients of the rarer class."""
    labels = Counter({slide.patient_id: slide.label for slide in planned}.values())
    return min(_MOST_FOLDS, *labels.values())


def evaluation_settings(config: DemoConfig, folds: int) -> MilEvalConfig:
    """Return the settings of stage three."""
    out = config.out
    return MilEvalConfig(
        cache=out / CACHE,
        manifest=out / MANIFEST,
        model=("mean-tokens", f"dino={out / DINO}", f"slpd={out / SLPD}", f"truth={out / TRUTH}"),
        out=out / EVALUATION,
        folds=folds,
        repeats=1 if config.tiny else 3,  # with few patients, a single split has a high variance
        seed=config.seed,
    )


def _draw_atlas(out: Path) -> int:
    if (out / ATLAS / "index.html").exists():
        return 0
    return prototypes.run(PrototypesConfig(run=out / SLPD, out=out / ATLAS, manifest=out / MANIFEST))


def _claim(config: DemoConfig) -> None:
    """Create the folder, or check that the demo in it has the same settings."""
    settings = {"slides": config.slide_count, "epochs": config.epoch_count, "seed": config.seed, "tiny": config.tiny}
    wanted = toml_text(settings)
    claim_folder(config.out, (RECIPE, MANIFEST, TRUTH))
    recipe = config.out / RECIPE
    if recipe.exists():
        found = recipe.read_text(encoding="utf-8")
        if found != wanted:
            got, asked = (", ".join(text.splitlines()) for text in (found, wanted))
            raise UsageError(
                f"--out: {config.out} contains a demo with {got}; requested: {asked}.",
                hint="Use the same settings to resume it, or a different --out.",
            )
        return
    if not all(map(is_lock, config.out.iterdir())):
        raise UsageError(f"--out: {config.out} is not empty and is not a demo folder.", hint="Choose a new folder.")
    write_text(recipe, wanted)


def _report_results(config: DemoConfig, seconds: float) -> None:
    out = config.out
    document = json.loads((out / EVALUATION / evaluation_folder.METRICS).read_text(encoding="utf-8"))
    console.table("Classification of inflamed vs. excluded tumors", result_rows(document, NAMES))
    pairs = (("slpd", "dino"), ("slpd", "mean-tokens"), ("dino", "mean-tokens"))
    sentences = [conclude(document, *pair, NAMES) for pair in pairs]
    sentences.append("Both pretraining runs used every slide, without labels: results on new patients may be lower.")
    if config.tiny:
        sentences.append("With --tiny, these results only show that everything runs.")
    for sentence in sentences:
        console.note(sentence)
    console.facts(
        f"Done in {console.human_seconds(seconds)}. Results",
        {
            "slides": out / SLIDES,
            "tissue and regions": out / CACHE / QC_FOLDER / "index.html",
            "training": out / SLPD / CURVES,
            "prototypes": out / ATLAS / "index.html",
            "evaluation report": out / EVALUATION / evaluation_folder.REPORT,
            "predictions": out / PREDICTIONS / prediction_folder.PAGES / prediction_folder.INDEX,
        },
    )
