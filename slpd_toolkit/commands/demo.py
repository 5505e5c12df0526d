"""`slpd demo`: synthetic slides with a known truth, a study of them, and a prediction of two further slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.commands import predict
from slpd_toolkit.commands.study import study
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.config.study import StudyConfig
from slpd_toolkit.config.study_stages import ATLAS, CACHE, EVALUATION, SLPD
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import claim_folder, write_text
from slpd_toolkit.core.folder_lock import is_lock, locks_folder
from slpd_toolkit.core.text import count
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.demo.cohort_plan import plan_cohort
from slpd_toolkit.demo.painting import MANIFEST, SLIDES, TRUTH, paint_cohort
from slpd_toolkit.ingest.embedding.lane import QC_FOLDER
from slpd_toolkit.mil.bundle.files import DIGESTS
from slpd_toolkit.mil.bundle.reading import choose_bundle
from slpd_toolkit.report import evaluation_folder, prediction_folder
from slpd_toolkit.report.study_page import INDEX
from slpd_toolkit.training.run_folder import CURVES

if TYPE_CHECKING:
    from slpd_toolkit.config.demo import DemoConfig
    from slpd_toolkit.demo.cohort_plan import PlannedSlide

RECIPE = "demo.toml"
TARGET = "label"
_CEILING = "truth"
NEW, PREDICTIONS = "new", "predictions"
"""Folders of two slides that nothing was trained on, and of what is predicted for them."""
_MODEL, _AGGREGATOR = SLPD, "abmil"
_MOST_SLIDES_OF_TWO = 12
"""The last patient of the cohort may have further slides, and so may the next two."""
_SQUARES, _TINY_SQUARES = 3, 2  # along each side of the smallest slide


@locks_folder("demo")
def run(config: DemoConfig) -> int:
    """Generate the slides, run a study of them, and predict two further slides; or resume an earlier run.

    Returns:
        The exit code of the study, or of the prediction.

    Raises:
        UsageError: The folder contains a demo with different settings, is not writable, or is used by another process.
    """
    _claim(config)
    planned = planned_slides(config)
    patients = len({slide.patient_id for slide in planned})
    console.note(
        f"This demo generates {len(planned)} synthetic slides of {count(patients, 'invented patient')}. Their tumors "
        "are either inflamed or excluded: the same tissue in a different arrangement. It then runs `slpd study` on "
        "them, as you would on your own slides. The result shows whether region ViTs pretrained without labels, by "
        "DINO and by SLPD (both with the recipe `robust`), separate the two classes better than the mean of the patch "
        "tokens, and how certain that is."
    )
    with console.step("slides"):
        paint_cohort(planned, config.out, config.jobs)
    code = study(study_settings(config))
    if code == 0:
        code = _predict(config)
    if code in {0, 1}:
        _report(config)
    return code


def new_slides(config: DemoConfig) -> list[PlannedSlide]:
    """Return one slide of each of the next two patients, who are of different classes."""
    cohort = {slide.patient_id for slide in planned_slides(config)}
    first: dict[str, PlannedSlide] = {}
    for slide in plan_cohort(config.slide_count + _MOST_SLIDES_OF_TWO, config.seed, _TINY_SQUARES):
        if slide.patient_id not in cohort:
            first.setdefault(slide.patient_id, slide)
    return list(first.values())[:2]


def _predict(config: DemoConfig) -> int:
    """Predict the slides of two new patients from their pixels, unless that was done."""
    settings = PredictConfig(
        bundle=config.out / EVALUATION,
        manifest=config.out / NEW / MANIFEST,
        out=config.out / PREDICTIONS,
        model=_MODEL,
        aggregator=_AGGREGATOR,
    )
    table = settings.out / prediction_folder.PREDICTIONS
    bundle = choose_bundle(settings.bundle, _MODEL, _AGGREGATOR) / DIGESTS
    if table.exists() and table.stat().st_mtime_ns >= bundle.stat().st_mtime_ns:
        console.note(f"The two slides of new patients have been predicted: {table}.")
        return 0
    new = new_slides(config)
    truth = "; ".join(f"{slide.slide_id} {slide.label}" for slide in new)
    console.note(
        f"Predicting two slides of new patients, who were not used for any training, with {_MODEL}, {_AGGREGATOR}. "
        f"Planted: {truth}."
    )
    paint_cohort(new, config.out / NEW, config.jobs)
    return predict.run(settings)


def planned_slides(config: DemoConfig) -> list[PlannedSlide]:
    """Return the plan of the slides."""
    return plan_cohort(config.slide_count, config.seed, _TINY_SQUARES if config.tiny else _SQUARES)


def study_settings(config: DemoConfig) -> StudyConfig:
    """Return the settings of the study."""
    return StudyConfig(
        manifest=config.out / MANIFEST,
        out=config.out,
        target=TARGET,
        embed_recipe=Path("embed/demo.toml"),
        pretrain_recipe="robust",
        eval_recipe=Path("mil-eval/demo.toml"),
        epochs=config.epoch_count,
        model=(f"{_CEILING}={config.out / TRUTH}",),
        ceiling=(_CEILING,),
        heatmaps=4 if config.tiny else 8,
        seed=config.seed,
        jobs=config.jobs,
    )


def _claim(config: DemoConfig) -> None:
    """Create the folder, or check that the demo in it has the same settings."""
    settings = {"slides": config.slide_count, "epochs": config.epochs, "seed": config.seed, "tiny": config.tiny}
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


def _report(config: DemoConfig) -> None:
    out = config.out
    console.note(f"The ceiling `{_CEILING}` uses the planted proportions, which cannot be determined from a slide.")
    if config.tiny:
        console.note("With --tiny, these results only show that everything runs.")
    console.facts(
        "What to look at",
        {
            "the answer": out / INDEX,
            "slides": out / SLIDES,
            "tissue and regions": out / CACHE / QC_FOLDER / "index.html",
            "training": out / SLPD / CURVES,
            "prototypes": out / ATLAS / "index.html",
            "evaluation report": out / EVALUATION / evaluation_folder.REPORT,
            "predictions of new slides": out / PREDICTIONS / prediction_folder.PAGES / prediction_folder.INDEX,
        },
    )
