"""report.html: what `slpd mil-eval` found, on one page that needs no network, and its figures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from slpd_toolkit.config.mil_eval import AGGREGATORS
from slpd_toolkit.core import console
from slpd_toolkit.core.files import write_text
from slpd_toolkit.core.text import listed
from slpd_toolkit.core.version import __version__
from slpd_toolkit.mil.tasks.task import Classification, Survival
from slpd_toolkit.report import wording
from slpd_toolkit.report.attention import show_attention
from slpd_toolkit.report.cases import choose_classified, choose_survival, wrong_in
from slpd_toolkit.report.class_figures import draw_calibration, draw_class_rocs, draw_confusion, draw_roc
from slpd_toolkit.report.fold_figures import draw_folds, draw_intervals
from slpd_toolkit.report.outcome import alarm, best_first, comparison_table, fold_facts, leaks, sentences, verdict
from slpd_toolkit.report.overlays import colours
from slpd_toolkit.report.pictures import looks
from slpd_toolkit.report.survival_figures import draw_kaplan_meier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from slpd_toolkit.mil.statistics.results import Evaluation, Representation, Result
    from slpd_toolkit.report.cases import Choice
    from slpd_toolkit.report.pictures import Look, Picture
    from slpd_toolkit.report.thumbnails import WholeSlide

FIGURES = "figures"
FIGURE_FILES = frozenset(
    f"{name}.svg"
    for name in (
        *("intervals", "folds", "roc", "calibration"),
        *("-".join(each) for each in product(("kaplan-meier", "confusion", "roc-classes"), AGGREGATORS)),
    )
)
"""Names of figures in that folder, whatever the task and the aggregators."""
_FOREMOST = 6
_HARDEST = 15
_STEPS = 11


def write_report(path: Path, evaluation: Evaluation, thumbnails: Callable[[str], WholeSlide | None]) -> None:
    """Write the page, and its figures as SVG into `figures/` beside it; those of an earlier page go.

    Args:
        path: report.html.
        evaluation: What was found.
        thumbnails: Slide id -> the whole slide in small, or None where its file is not at hand.
    """
    headline, task = evaluation.task.headline, evaluation.task
    ranked = best_first(evaluation.results, headline)
    styles = looks([each.name for each in evaluation.representations])
    by_aggregator = _by_aggregator(evaluation.results)
    figures = _figures(evaluation, by_aggregator, styles)
    choices = _choices(evaluation, ranked)
    verdicts = [verdict(paired, headline) for paired in evaluation.comparisons]
    metrics = list(evaluation.results[0].values)
    folder = path.parent / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    for picture in figures.values():
        write_text(folder / f"{picture.name}.svg", picture.svg)
    for name in FIGURE_FILES - {f"{name}.svg" for name in figures}:
        (folder / name).unlink(missing_ok=True)  # an earlier evaluation's; files of other names are the user's own
    pages = Environment(
        loader=PackageLoader("slpd_toolkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = pages.get_template("evaluation.html").render(
        evaluation=evaluation,
        version=__version__,
        wording=wording,
        headline=headline,
        metrics=metrics,
        survival=isinstance(task, Survival),
        classes=task.classes if isinstance(task, Classification) else (),
        ordinal=isinstance(task, Classification) and task.ordinal,
        said=sentences(evaluation),
        verdicts=verdicts,
        foremost=sorted(verdicts, key=lambda each: (not each.differs, each.p_value))[:_FOREMOST],
        alarm=alarm(evaluation.audits),
        facts=_facts(evaluation),
        strata=_strata(evaluation),
        representations=[_described(each, evaluation) for each in evaluation.representations],
        leaks=leaks(evaluation.audits),
        unknown=[each.name for each in evaluation.representations if not each.pretraining_known],
        splits=len(evaluation.results[0].folds),
        by_aggregator=by_aggregator,
        ranked=ranked,
        figures=figures,
        kaplan_meiers=_of_kind(figures, by_aggregator, "kaplan-meier"),
        confusions=_of_kind(figures, by_aggregator, "confusion"),
        class_rocs=_of_kind(figures, by_aggregator, "roc-classes"),
        comparisons={name: comparison_table(evaluation.comparisons, name, headline) for name in metrics},
        replicates=max((each.intervals[headline].replicates for each in evaluation.results), default=0),
        choices=choices,
        attention=show_attention(evaluation.representations, choices, thumbnails),
        steps=[_css(colour) for colour in colours(np.linspace(0, 1, _STEPS)).tolist()],
        recipe=flatten(evaluation.recipe),
    )
    write_text(path, page)
    unwritten = sorted(frozenset[str]().union(*(picture.unwritten for picture in figures.values())))
    if unwritten:
        console.note(
            f"note: No font of this system has {listed(unwritten)}: the figures show frames instead, the page itself "
            "has the names. Install a font of that script, such as Noto Sans, and run the same command again."
        )


def flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested settings into rows of dotted names and texts."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            rows.append((prefix + name, value))
        else:
            rows.append((prefix + name, json.dumps(value, ensure_ascii=False, default=str)))
    return rows


def _by_aggregator(results: Sequence[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.aggregator, []).append(result)
    return groups


def _figures(
    evaluation: Evaluation, groups: Mapping[str, Sequence[Result]], styles: Mapping[str, Look]
) -> dict[str, Picture]:
    """Draw all that the task has, by name."""
    task, headline = evaluation.task, evaluation.task.headline
    drawn = [draw_intervals(evaluation.results, headline, styles), draw_folds(evaluation.results, headline, styles)]
    if isinstance(task, Survival):
        drawn += [
            draw_kaplan_meier(f"kaplan-meier-{aggregator}", results, task, evaluation.cohort)
            for aggregator, results in groups.items()
        ]
    if isinstance(task, Classification):
        if not task.ordinal:
            drawn.append(draw_roc(groups, task, styles))
        drawn.append(draw_calibration(groups, task, styles))
        for aggregator, results in groups.items():
            drawn.append(draw_confusion(f"confusion-{aggregator}", results, task))
            if len(task.classes) > 2 and not task.ordinal:
                drawn.append(draw_class_rocs(f"roc-classes-{aggregator}", results, task, styles))
    assert {f"{each.name}.svg" for each in drawn} <= FIGURE_FILES, "aggregators come from a list of ours"
    return {each.name: each for each in drawn}


def _of_kind(figures: Mapping[str, Picture], aggregators: Iterable[str], kind: str) -> dict[str, str]:
    """Aggregator -> name of its figure of a kind, where the task has one."""
    return {each: f"{kind}-{each}" for each in aggregators if f"{kind}-{each}" in figures}


def _facts(evaluation: Evaluation) -> dict[str, str]:
    cohort, task = evaluation.cohort, evaluation.task
    kind = "survival (discrete-time hazards)"
    if isinstance(task, Classification):
        order = "ordered classes, low to high" if task.ordinal else "classes"
        kind = f"{len(task.classes)} {order}"
    slides = wording.count(len(cohort.slides), "slide")
    patients = wording.count(len(np.unique(cohort.patients)), "patient")
    facts = {"target": evaluation.target, "task": kind, "cohort": f"{slides} of {patients}"}
    if cohort.sites is not None:
        facts["sites"] = f"{len(np.unique(cohort.sites))}"
    if isinstance(task, Survival):
        low, middle, high = np.quantile(task.times, [0, 0.5, 1])
        facts["follow-up"] = f"{low:.3g} to {high:.3g}, median {middle:.3g} (unit of the manifest)"
    return facts | fold_facts(evaluation)


def _strata(evaluation: Evaluation) -> list[tuple[str, int, int]]:
    """Class (or event and censored), slides, patients."""
    task, cohort = evaluation.task, evaluation.cohort
    names = task.classes if isinstance(task, Classification) else ("event", "censored")
    strata = task.strata
    return [(name, int((strata == name).sum()), len(np.unique(cohort.patients[strata == name]))) for name in names]


def _described(representation: Representation, evaluation: Evaluation) -> dict[str, str]:
    bags = representation.bags
    regions = f"{len(bags.features):,} regions (a slide has {bags.sizes.min():,} to {bags.sizes.max():,})"
    vectors = "one vector a slide" if (bags.sizes == 1).all() else regions
    seen = len(representation.pretrained & set(evaluation.cohort.slides.tolist()))
    known = (
        f"saw {seen:,} of the {len(evaluation.cohort.slides):,} evaluated slides, without labels"
        if seen
        else "none of these slides"
    )
    return {
        "name": representation.name,
        "source": representation.source,
        "bags": f"{vectors}, {bags.width:,} numbers each",
        "pretraining": known if representation.pretraining_known else "not known, so not audited",
    }


def _choices(evaluation: Evaluation, ranked: Sequence[Result]) -> list[tuple[Result, Choice]]:
    task, cohort = evaluation.task, evaluation.cohort
    if isinstance(task, Survival):
        return [(result, choose_survival(result, task, cohort, _HARDEST)) for result in ranked]
    assert isinstance(task, Classification)
    wrong = wrong_in(evaluation.results, task)
    return [
        (result, choose_classified(result, task, cohort, wrong, len(evaluation.results), _HARDEST)) for result in ranked
    ]


def _css(rgb: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, rgb))})"
