"""The external cohort in words and rows, for the report, the model card and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.figures.number_format import UNDEFINED, number
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.report.outcome import comparison_table
from slpd_toolkit.report.wording import interval, mean_sd, p_value, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.external.results import External, ExternalResult, SharedIdentities
    from slpd_toolkit.mil.statistics.bootstrap import Estimate
    from slpd_toolkit.mil.statistics.results import PairedResult
    from slpd_toolkit.report.outcome import ComparisonTable


@dataclass(frozen=True)
class ExternalSection:
    """The section of the report."""

    facts: str
    sentences: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Model, aggregator, cross-validation, external mean over heads, interval, ensemble, drop."""
    comparisons: ComparisonTable
    """By the headline metric of the ensembles."""
    details: Sequence[ExternalDetails]
    audit: Sequence[tuple[str, Sequence[str], str]]
    """Model, what was found (empty if nothing), and what was compared."""
    notes: Sequence[str]


@dataclass(frozen=True)
class ExternalDetails:
    """One model with one aggregator."""

    title: str
    metrics: Sequence[Sequence[str]]
    """Metric, mean over heads, interval, ensemble, drop."""
    thresholds: Sequence[Sequence[str]]
    """Where, threshold, sensitivity, specificity."""
    calibration: Sequence[Sequence[str]]
    """Measure, cross-validation, external."""
    sites: Sequence[Sequence[str]]
    """Site, slides, patients, headline metric of the ensemble."""
    far: str


def estimate(found: Estimate, *, sign: bool = False) -> str:
    """Format a number with its interval."""
    if math.isnan(found.value):
        return UNDEFINED
    write = signed if sign else number
    return (
        write(found.value)
        if math.isnan(found.low)
        else f"{write(found.value)} [{write(found.low)}, {write(found.high)}]"
    )


def external_section(external: External) -> ExternalSection:
    """Describe an external validation."""
    cohort, headline = external.cohort, external.task.headline
    patients = len(cohort.patient_table().ids)
    return ExternalSection(
        f"{external.source}: {count(len(cohort.slides), 'slide')} of {count(patients, 'patient')}",
        sentences_of(external),
        [[each.model, each.aggregator, *_cells(each, headline)] for each in external.results],
        comparison_table(external.comparisons, headline, headline),
        [_details(each, external) for each in external.results],
        [(name, findings(audit), compared(audit)) for name, audit in external.audits.items()],
        external.notes,
    )


def sentences_of(external: External) -> list[str]:
    """State for each result whether the metric holds on the external cohort."""
    headline = external.task.headline
    words = external.task.known_metrics[headline].words
    said = []
    for each in external.results:
        drop = each.drops[headline]
        start = f"{each.model}, {each.aggregator}: {words} {mean_sd(each.values[headline])} on the external cohort"
        if math.isnan(drop.low):
            said.append(f"{start}.")
            continue
        verdict = "no evidence of a drop"
        if drop.low > 0:
            verdict = "lower on the external cohort"
        elif drop.high < 0:
            verdict = "higher on the external cohort"
        said.append(f"{start}, a drop of {estimate(drop, sign=True)} from cross-validation: {verdict}.")
    return said


def findings(audit: SharedIdentities) -> list[str]:
    """Put into words what two cohorts share; empty if nothing."""
    found = []
    if audit.slides:
        found.append(
            f"{count(len(audit.slides), 'slide ID is', 'slide IDs are')} in both cohorts: {listed(audit.slides)}."
        )
    if audit.patients:
        found.append(
            f"{count(len(audit.patients), 'patient is', 'patients are')} in both cohorts: {listed(audit.patients)}."
        )
    if audit.equal_embeddings:
        slides = [slide for slide, _ in audit.equal_embeddings]
        found.append(
            f"{count(len(slides), 'external slide shares', 'external slides share')} identical embeddings with "
            f"training slides: {listed(slides)}."
        )
    if audit.near_copies:
        groups = count(len(audit.near_copies), "group of near-copies has", "groups of near-copies have")
        found.append(f"{groups} slides of both cohorts, such as {audit.near_copies[0]}.")
    if audit.pretrained_slides:
        found.append(
            f"{count(len(audit.pretrained_slides), 'external slide was', 'external slides were')} used in pretraining: "
            f"{listed(audit.pretrained_slides)}."
        )
    return found


def compared(audit: SharedIdentities) -> str:
    """State what was compared, and what could not be."""
    reasons = {
        "near-copies": "" if audit.near_copies_compared else "too few slides",
        "slides used in pretraining": "" if audit.pretraining_known else "unknown",
    }
    done = ["slide IDs", "patients", "identical embeddings", *(name for name, reason in reasons.items() if not reason)]
    missing = [f"{name} ({reason})" for name, reason in reasons.items() if reason]
    return f"Compared: {', '.join(done)}." + (f" Not compared: {', '.join(missing)}." if missing else "")


def print_external(external: External) -> None:
    """Print the result and the audit to standard output."""
    headline = external.task.headline
    words = external.task.known_metrics[headline].words
    patients = len(external.cohort.patient_table().ids)
    rows = []
    for each in external.results:
        _, mean, within, _, drop = _cells(each, headline)
        rows.append(
            {
                "model, aggregator": f"{each.model}, {each.aggregator}",
                f"{words} ± sd": mean,
                "95 % interval": within,
                "drop": drop,
            }
        )
    console.table(f"External: {count(len(external.cohort.slides), 'slide')} of {count(patients, 'patient')}", rows)
    if external.comparisons:
        console.table(
            f"External: {words} of the ensembles, first - second",
            [_difference(each, headline) for each in external.comparisons],
        )
    for each in external.results:
        if each.thresholds:
            console.table(
                f"External: {each.model}, {each.aggregator}",
                [
                    dict(zip(("at", "threshold", "sensitivity", "specificity"), row, strict=True))
                    for row in _thresholds(each)
                ],
            )
    console.facts(
        "External audit",
        {
            name: f"{' '.join(findings(audit)) or 'clean: nothing was found in both cohorts.'} {compared(audit)}"
            for name, audit in external.audits.items()
        },
    )
    for note in external.notes:
        console.note(f"note: {note}")


def _difference(paired: PairedResult, headline: str) -> dict[str, object]:
    found = paired.metrics[headline]
    return {
        "first - second, aggregator": f"{paired.first} - {paired.second}, {paired.aggregator}",
        "ensemble": signed(found.difference),
        "95 % interval": interval(found.interval, sign=True),
        "adjusted p perm.": p_value(paired.adjusted["permutation"]).removeprefix("= "),
    }


def _cells(result: ExternalResult, name: str) -> list[str]:
    """Return cross-validation, mean over heads, its interval, the ensemble and the drop."""
    mean = float("nan")
    drop = result.drops[name]
    defined = [value for value in result.values[name].tolist() if not math.isnan(value)]
    if defined:
        mean = sum(defined) / len(defined)
    before = number(mean + drop.value)
    return [
        before,
        mean_sd(result.values[name]),
        interval(result.intervals[name]),
        estimate(result.of_ensemble[name]),
        estimate(drop, sign=True),
    ]


def _details(result: ExternalResult, external: External) -> ExternalDetails:
    known = external.task.known_metrics
    return ExternalDetails(
        f"{result.model}, {result.aggregator}",
        [[known[name].words, *_cells(result, name)] for name in result.values],
        _thresholds(result),
        [[name, estimate(inside), estimate(outside)] for name, (inside, outside) in result.calibration.items()],
        [[each.site, f"{each.slides:,}", f"{each.patients:,}", estimate(each.headline)] for each in result.sites],
        f"{result.far:,} of {count(len(external.cohort.slides), 'slide')} {agree(result.far, 'is', 'are')} far from "
        "the training set.",
    )


def _thresholds(result: ExternalResult) -> list[list[str]]:
    return [
        [each.where, number(each.threshold), estimate(each.sensitivity), estimate(each.specificity)]
        for each in result.thresholds
    ]
