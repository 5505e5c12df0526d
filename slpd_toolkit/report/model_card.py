"""MODEL_CARD.md of a bundle: what it predicts, how well, for which patients, and its known limitations, as measured."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.figures.number_format import number
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.core.version import __version__
from slpd_toolkit.mil.tasks.task import groups_of
from slpd_toolkit.report.calibration_table import calibration_rows
from slpd_toolkit.report.covariate_section import stored_heads_sentence
from slpd_toolkit.report.evaluation_summary import audit_facts
from slpd_toolkit.report.external_section import external_section
from slpd_toolkit.report.outcome import fold_facts
from slpd_toolkit.report.site_section import findings
from slpd_toolkit.report.wording import interval, mean_sd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slpd_toolkit.mil.bundle.bundle import Bundle
    from slpd_toolkit.mil.external.results import External
    from slpd_toolkit.mil.statistics.results import Evaluation, Result

_LIMITS = (
    "For research; not a medical device.",
    (
        "Performance is known for slides like those of the cohort above. Evaluate the model on your own slides before "
        "you rely on it: `slpd mil-eval --external`."
    ),
    "High attention means a large weight in the slide's embedding; it does not indicate which class a region supports.",
)


def model_card(bundle: Bundle, evaluation: Evaluation, external: External | None = None) -> str:
    """Return the text of the card.

    Args:
        bundle: The heads.
        evaluation: The evaluation that they come from.
        external: Results on another cohort.
    """
    (result,) = [
        each for each in evaluation.results if (each.model, each.aggregator) == (bundle.model, bundle.aggregator)
    ]
    lines = [
        f"# {bundle.target}: {bundle.model}, {bundle.aggregator}",
        "",
        f"Written by slpd_toolkit {__version__} from the results of `slpd mil-eval`.",
        "",
        "## What it predicts",
        "",
        *_rows(_prediction_facts(bundle)),
        "",
        "## Input",
        "",
        *_rows(_input_facts(bundle)),
        "",
        "## Training cohort",
        "",
        *_rows(_cohort_facts(evaluation)),
        "",
        "## Measured performance",
        "",
        *_metrics(result, evaluation),
        "",
        *_calibration(result),
        *_site_effects(bundle.model, evaluation),
        _escaped(distance_sentence(bundle)),
        "",
        *([] if external is None else _external(bundle, external)),
        "## Audit",
        "",
        *_rows({name: text for name, text in audit_facts(evaluation).items() if name in {"splits", bundle.model}}),
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in (*_LIMITS, *_further_limits(evaluation, external))),
        "",
    ]
    return "\n".join(lines)


def _further_limits(evaluation: Evaluation, external: External | None) -> list[str]:
    """Return what limits this evaluation, without the folders of files: the card may be published."""
    study = evaluation.of_representations.covariates
    found = [] if study is None else [stored_heads_sentence([_escaped(each.name) for each in study.covariates])]
    notes = [*evaluation.notes, *(() if external is None else external.notes)]
    return [*found, *(_escaped(_without_folders(note, evaluation.recipe)) for note in notes)]


def _without_folders(text: str, recipe: Mapping[str, object]) -> str:
    """Replace the paths among the settings of an evaluation by their last part."""
    values = [each for value in recipe.values() for each in (value if isinstance(value, list | tuple) else [value])]
    texts = [str(value) for value in values if isinstance(value, str | PurePath)]
    paths = {each.partition("#")[0] for each in (*texts, *(text.partition("=")[2] for text in texts))}
    for path in sorted(paths, key=len, reverse=True):  # a path may contain another one
        if len(PurePath(path).parts) > 1:
            text = text.replace(path, PurePath(path).name)
    return text


def decision_rule(bundle: Bundle) -> str:
    """Return how outputs become a decision, in words."""
    decision = bundle.decision
    texts = {
        "threshold": f"{decision.classes[-1]} if its probability is at least {decision.threshold:.4g} (chosen on "
        "the validation parts), otherwise the other class"
        if decision.classes
        else "",
        "most-probable": "the most probable class",
        "median-class": "the median class of the predicted distribution",
        "risk-percentile": "high risk if the risk is above the median of held-out slides, otherwise low risk",
        "value": "the value",
        "labels": ", ".join(
            f"{name} from {threshold:.4g}"
            for name, threshold in zip(decision.classes, decision.thresholds, strict=False)
        )
        + " (probabilities, chosen on the validation parts)",
    }
    return texts[decision.kind]


def _prediction_facts(bundle: Bundle) -> dict[str, str]:
    decision, heads = bundle.decision, bundle.ensemble
    facts = {"target": bundle.target, "task": str(bundle.task.get("kind", ""))}
    if decision.classes:
        facts["classes"] = ", ".join(decision.classes)
    temperatures = [head.temperature for head in heads]
    return facts | {
        "decision": decision_rule(bundle),
        "heads": f"{count(len(heads), 'head')}, one per fold; predictions are their mean"
        + ("; one more was trained on all patients and not evaluated" if len(bundle.heads) > len(heads) else ""),
        "temperature": f"{min(temperatures):.3g} to {max(temperatures):.3g}, fitted on validation parts",
    }


def _input_facts(bundle: Bundle) -> dict[str, str]:
    origin = bundle.origin
    facts = {
        "representation": {
            "region-vit": f"region ViT ({origin.source}), SHA-256 {origin.digest[:16]}",
            "mean-tokens": "mean of the tissue tokens of each region",
            "table": f"slide vectors ({origin.source}), SHA-256 {origin.digest[:16]}",
        }[origin.kind],
        "width": f"{origin.width:,}",
    }
    tokens = origin.tokens
    if tokens:
        facts["encoder"] = f"{tokens['encoder']}, SHA-256 {str(tokens['encoder_sha256'])[:16]}"
        facts["geometry"] = (
            f"patches of {tokens['patch_px']} px, regions of {tokens['region_px']} px, at {tokens['target_mpp']} um/px"
        )
    return facts


def _cohort_facts(evaluation: Evaluation) -> dict[str, str]:
    cohort, task = evaluation.cohort, evaluation.task
    strata = [f"{name} {int(members.sum())}" for name, members in groups_of(task)]
    facts = {
        "cohort": f"{count(len(cohort.slides), 'slide')} of {count(len(np.unique(cohort.patients)), 'patient')}",
        "slides": ", ".join(strata),
    }
    sites = evaluation.of_representations.sites
    if sites is not None:
        names, slides = np.unique(sites[sites != ""], return_counts=True)
        of_site = [f"{name} ({count(number, 'slide')})" for name, number in zip(names.tolist(), slides, strict=True)]
        unknown = int((sites == "").sum())
        facts["sites"] = f"{len(of_site)}: {listed(of_site)}" + (f"; {unknown} of unknown site" if unknown else "")
    return facts | fold_facts(evaluation)


def _metrics(result: Result, evaluation: Evaluation) -> list[str]:
    known = evaluation.task.known_metrics
    rows = ["| metric | mean ± sd over folds | 95 % interval |", "|---|---|---|"]
    rows += [
        f"| {_escaped(known[name].words)} | {mean_sd(values)} | {interval(result.intervals[name])} |"
        for name, values in result.values.items()
    ]
    who = "sites" if evaluation.by_site else "patients"
    return [*rows, "", f"Each fold was tested on slides that its head had not seen. Intervals are over {who}."]


def _calibration(result: Result) -> list[str]:
    """Tabulate calibration, and sensitivity and specificity at thresholds; nothing for other targets."""
    found = calibration_rows([result])
    if not found:
        return []
    rows = ["| on the test parts | mean over folds | 95 % interval |", "|---|---|---|"]
    rows += [f"| {_escaped(name)} | {mean} | {within} |" for name, (mean, within) in found[0].estimates.items()]
    scaled = '"Scaled" is after temperature scaling.'
    if found[0].thresholds:
        scaled += (
            f" Sensitivity and specificity are at the threshold of each fold ({found[0].thresholds}; {found[0].rule}), "
            "chosen on its validation part."
        )
    return [*rows, "", scaled, ""]


def _site_effects(model: str, evaluation: Evaluation) -> list[str]:
    """Describe how strongly the representation depends on the site; nothing without sites."""
    effects = [each for each in evaluation.of_representations.site_effects if each.model == model]
    return [line for text in findings(effects) for line in (_escaped(text), "")]


def _external(bundle: Bundle, external: External) -> list[str]:
    section = external_section(external)
    (details,) = [each for each in section.details if each.title == f"{bundle.model}, {bundle.aggregator}"]
    lines = ["## External cohort", "", _escaped(f"{section.facts}. {details.far}"), ""]
    lines += ["| metric | cross-validation | external, mean ± sd over heads | 95 % interval | ensemble | drop |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in details.metrics]
    if details.thresholds:
        lines += ["", "| | threshold | sensitivity | specificity |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_escaped, row))} |" for row in details.thresholds]
    if details.calibration:
        lines += ["", "| | cross-validation | external |", "|---|---|---|"]
        lines += [f"| {' | '.join(map(_escaped, row))} |" for row in details.calibration]
    if details.sites:
        lines += ["", "| site | slides | patients | headline metric of the ensemble |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_escaped, row))} |" for row in details.sites]
    (said,) = [(found, compared) for model, found, compared in section.audit if model == bundle.model]
    shared = f"{' '.join(said[0]) or 'Nothing was found in both cohorts.'} {said[1]}"
    return [*lines, "", _escaped(shared), ""]


def distance_sentence(bundle: Bundle) -> str:
    """Describe the mark of slides that are far from the training set, with its false-alarm rate."""
    training = bundle.training
    if math.isinf(training.limit):
        return (
            f"Slides are not marked by distance: {count(len(training.held_out), 'held-out slide')} are too few to "
            "calibrate it (19 or more are needed)."
        )
    rate = training.false_alarm_rate
    measured = "not measured" if math.isnan(rate) else f"{100 * rate:.1f} %"
    return (
        f"Slides at a Mahalanobis distance above {number(training.limit)} from the training set are marked. "
        f"False-alarm rate on {count(len(training.held_out), 'held-out training slide')}: {measured}, intended 5 %."
    )


def _rows(facts: dict[str, str]) -> Iterable[str]:
    return [f"- **{_escaped(name)}**: {_escaped(text)}" for name, text in facts.items()]


def _escaped(text: str) -> str:
    """Escape what Markdown or HTML would interpret in names that users chose."""
    for character in "\\`*_[]<>|#":
        text = text.replace(
            character, f"\\{character}" if character not in "<>" else {"<": "&lt;", ">": "&gt;"}[character]
        )
    return text.replace("\n", " ")
