"""report.html: the results of `slpd mil-eval` on one self-contained page, and the figures as separate files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.config.mil_eval import AGGREGATORS, TASKS
from slpd_toolkit.core import console
from slpd_toolkit.core.figures.pictures import looks
from slpd_toolkit.core.files import write_text
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.core.version import __version__
from slpd_toolkit.mil.statistics.retrieval import WORDS
from slpd_toolkit.mil.statistics.tables import adjusted_over
from slpd_toolkit.mil.tasks.predictions import by_aggregator
from slpd_toolkit.mil.tasks.task import groups_of, task_class
from slpd_toolkit.report import wording
from slpd_toolkit.report.attention import show_attention
from slpd_toolkit.report.calibration_table import calibration_rows
from slpd_toolkit.report.covariate_section import covariate_section
from slpd_toolkit.report.external_section import external_section
from slpd_toolkit.report.fold_figures import draw_folds, draw_intervals
from slpd_toolkit.report.outcome import alarm, best_first, comparison_table, fold_facts, leaks, sentences, verdict
from slpd_toolkit.report.overlays import colours
from slpd_toolkit.report.pages import render
from slpd_toolkit.report.site_section import site_section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slpd_toolkit.core.figures.pictures import Picture
    from slpd_toolkit.mil.external.results import External
    from slpd_toolkit.mil.statistics.results import Evaluation, Representation
    from slpd_toolkit.report.thumbnails import WholeSlide

FIGURES = "figures"
"""Folder of the figures, next to the page."""
_EVERY_TASK = ("intervals", "folds")
_FOREMOST = 6
_HARDEST = 15
_STEPS = 11


def figure_files() -> frozenset[str]:
    """Return the file names that figures may have, whatever the task and the aggregators."""
    tasks = [task_class(name) for name in TASKS.names()]
    shared = {stem for task in tasks for stem in task.figures}
    of_aggregators = {
        f"{stem}-{name}" for task in tasks for stem in task.aggregator_figures for name in AGGREGATORS.names()
    }
    return frozenset(f"{stem}.svg" for stem in {*_EVERY_TASK, *shared, *of_aggregators})


def write_report(
    path: Path,
    evaluation: Evaluation,
    thumbnails: Callable[[str], WholeSlide | None],
    external: External | None = None,
) -> None:
    """Write the page, and its figures as SVG into `figures/`; figures of an earlier page are removed.

    Args:
        path: report.html.
        evaluation: The results.
        thumbnails: Maps a slide ID to a thumbnail of the whole slide, or None if its file is not available.
        external: Results on another cohort.
    """
    task, cohort, results = evaluation.task, evaluation.cohort, evaluation.results
    headline, headline_metric = task.headline, task.known_metrics[task.headline]
    ranked = best_first(results, headline)
    styles = looks([each.name for each in evaluation.representations])
    sections = task.draw(results, styles, cohort.patients)
    intervals, folds = (draw(results, headline, headline_metric, styles) for draw in (draw_intervals, draw_folds))
    pictures = [intervals, folds, *(each.picture for section in sections for each in section.figures)]
    _write_figures(path.parent / FIGURES, pictures)
    choices = list(zip(ranked, task.choose_cases(ranked, cohort.slides, cohort.patients, _HARDEST), strict=True))
    verdicts = [verdict(paired, headline, headline_metric.words) for paired in evaluation.comparisons]
    metrics = {name: task.known_metrics[name].words for name in results[0].values}
    study = evaluation.of_representations.covariates
    page = render(
        "evaluation.html",
        evaluation=evaluation,
        version=__version__,
        wording=wording,
        headline=headline,
        retrieval_words=WORDS,
        site_effects=site_section(evaluation.of_representations.site_effects)
        if evaluation.of_representations.site_effects
        else None,
        metrics=metrics,
        task=task,
        said=sentences(evaluation),
        verdicts=verdicts,
        foremost=sorted(verdicts, key=lambda each: (not each.differs, each.p_value))[:_FOREMOST],
        alarm=alarm(evaluation.audits),
        facts=_facts(evaluation),
        strata=_strata(evaluation),
        representations=[_described(each, evaluation) for each in evaluation.representations],
        leaks=leaks(evaluation.audits),
        unknown=[each.name for each in evaluation.representations if not each.pretraining_known],
        splits=max(len(result.folds) for result in results),
        aggregators=len(by_aggregator(results)),
        ranked=ranked,
        intervals=intervals,
        folds=folds,
        sections=sections,
        comparisons={name: comparison_table(evaluation.comparisons, name, headline) for name in metrics},
        calibrated=calibration_rows(ranked),
        choices=choices,
        attention=show_attention(evaluation.representations, choices, thumbnails),
        steps=[_css(colour) for colour in colours(np.linspace(0, 1, _STEPS)).tolist()],
        recipe=flatten(evaluation.recipe),
        covariates=None if study is None else covariate_section(study, task),
        adjusted_over=adjusted_over(evaluation),
        external=None if external is None else external_section(external),
    )
    write_text(path, page)
    _note_missing_fonts(pictures)


def _write_figures(folder: Path, pictures: Sequence[Picture]) -> None:
    files = {f"{picture.name}.svg": picture.svg for picture in pictures}
    known = figure_files()
    assert files.keys() <= known, f"a task draws figures that it does not name: {files.keys() - known}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in files.items():
        write_text(folder / name, svg)
    for name in known - files.keys():
        (folder / name).unlink(missing_ok=True)  # of an earlier evaluation; files of other names belong to the user


def _note_missing_fonts(pictures: Sequence[Picture]) -> None:
    unwritten = sorted(frozenset[str]().union(*(picture.unwritten for picture in pictures)))
    if unwritten:
        console.note(
            f"note: No installed font has the characters {listed(unwritten)}; the figures show boxes instead. The text "
            "of the page is not affected. Install a font for this script, such as Noto Sans, and run the same command "
            "again."
        )


def flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings into rows of dotted names and texts."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            rows.append((prefix + name, value))
        else:
            rows.append((prefix + name, json.dumps(value, ensure_ascii=False, default=str)))
    return rows


def _facts(evaluation: Evaluation) -> dict[str, str]:
    cohort = evaluation.cohort
    slides = count(len(cohort.slides), "slide")
    patients = count(len(np.unique(cohort.patients)), "patient")
    of_task = evaluation.task.facts()
    facts = {"target": evaluation.target, "task": of_task.pop("task"), "cohort": f"{slides} of {patients}"}
    if cohort.sites is not None:
        facts["sites"] = f"{len(np.unique(cohort.sites))}"
    return facts | of_task | fold_facts(evaluation)


def _strata(evaluation: Evaluation) -> list[tuple[str, int, int]]:
    """Return stratum, number of slides and number of patients per row."""
    task, cohort = evaluation.task, evaluation.cohort
    return [(name, int(members.sum()), len(np.unique(cohort.patients[members]))) for name, members in groups_of(task)]


def _described(representation: Representation, evaluation: Evaluation) -> dict[str, str]:
    bags = representation.bags
    regions = f"{count(len(bags.features), 'region')} ({bags.sizes.min():,} to {bags.sizes.max():,} per slide)"
    vectors = "one vector per slide" if (bags.sizes == 1).all() else regions
    seen = len(representation.pretrained & set(evaluation.cohort.slides.tolist()))
    known = (
        f"included {seen:,} of {count(len(evaluation.cohort.slides), 'evaluated slide')}, without labels"
        if seen
        else "none of these slides"
    )
    return {
        "name": representation.name,
        "source": representation.source,
        "bags": f"{vectors}, {bags.width:,} features each",
        "pretraining": known if representation.pretraining_known else "not known, so not audited",
    }


def _css(rgb: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, rgb))})"
