"""Does the slide add anything to covariates? In words and rows, for the report and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.figures.number_format import number
from slpd_toolkit.core.text import listed
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.report.outcome import LEVEL
from slpd_toolkit.report.wording import bare_interval, conservative, interval, p_value, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.statistics.covariate_study import CovariateResult, CovariateStudy
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True)
class CovariateSection:
    """The section of the report."""

    covariates: Sequence[str]
    sentences: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Model, aggregator, covariates alone, slide alone, both, gain of the slide with interval, adjusted p, gain of the
    covariates with interval."""


def covariate_section(study: CovariateStudy, task: Task) -> CovariateSection:
    """Describe a comparison with covariates."""
    return CovariateSection(
        [each.description for each in study.covariates],
        _sentences(study, task),
        [_row(each, task.headline) for each in study.results],
    )


def print_covariates(study: CovariateStudy, task: Task) -> None:
    """Print the comparison with covariates to standard output."""
    names = ("model", "aggregator", "covariates", "slide", "both", "slide adds", "p", "covariates add")
    words = task.known_metrics[task.headline].words
    rows = [dict(zip(names, _row(each, task.headline), strict=True)) for each in study.results]
    console.table(
        f"{listed(each.description for each in study.covariates)}: {words}; p adjusted (Holm)",
        [{name: cell for name, cell in row.items() if name != "covariates add"} for row in rows],
    )
    console.paragraphs(_sentences(study, task))


def stored_heads_sentence(covariates: Sequence[str]) -> str:
    """State that stored heads do not use the covariates of their evaluation."""
    return f"The stored heads predict from the slide alone: `slpd predict` does not use {listed(covariates)}."


def _sentences(study: CovariateStudy, task: Task) -> list[str]:
    of_results = [_sentence(each, study, task) for each in study.results]
    return [*of_results, stored_heads_sentence([each.name for each in study.covariates])]


def _row(result: CovariateResult, headline: str) -> list[str]:
    means = [
        mean_and_sd(values[headline])[0] for values in (result.alone.values, result.slide.values, result.both.values)
    ]
    gains = [
        f"{signed(found[headline].difference)} {interval(found[headline].interval, sign=True)}"
        for found in (result.slide_adds, result.covariates_add)
    ]
    p = p_value(result.adjusted).removeprefix("= ")
    return [result.slide.model, result.slide.aggregator, *map(number, means), gains[0], p, gains[1]]


def _sentence(result: CovariateResult, study: CovariateStudy, task: Task) -> str:
    headline = task.headline
    words = task.known_metrics[headline].words
    alone, both = (number(mean_and_sd(arm.values[headline])[0]) for arm in (result.alone, result.both))
    gain = result.slide_adds[headline]
    start = (
        f"{result.slide.model}, {result.slide.aggregator}: {words} {alone} from "
        f"{listed(each.name for each in study.covariates)} alone, {both} with the slide, a gain of "
        f"{signed(gain.difference)} {bare_interval(gain.interval, sign=True)}"
    )
    if math.isnan(result.adjusted):
        return f"{start}. No test is defined."
    p = f"{conservative(gain.shared_training)}Holm-adjusted p {p_value(result.adjusted)}"
    if result.adjusted >= LEVEL:
        return f"{start}. No evidence that the slide adds information ({p})."
    if gain.difference < 0:
        return f"{start}. The slide makes the prediction worse ({p})."
    return f"{start}. The slide adds to the covariates ({p})."
