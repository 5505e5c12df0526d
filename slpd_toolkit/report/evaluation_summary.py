"""Terminal output of `slpd mil-eval`, 80 columns wide: results, comparisons, and the leakage audit."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.mil.statistics.retrieval import WORDS
from slpd_toolkit.report.site_section import findings, meaning, terminal_rows
from slpd_toolkit.report.wording import CONSERVATIVE, interval, marked, mean_sd, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.cohort.audit import SplitAudit
    from slpd_toolkit.mil.statistics.results import Evaluation, PairedResult, Representation, Result
    from slpd_toolkit.mil.statistics.site_effects import SiteEffects

_SECOND = "balanced_accuracy"
_BOTH = "aggregator, model"
PRINTED = ("majority_1", "majority_5", "map_5")


def print_summary(evaluation: Evaluation) -> None:
    """Print results, comparisons and audit to standard output, and notes to standard error."""
    headline, words = evaluation.task.headline, evaluation.task.known_metrics[evaluation.task.headline].words
    cohort = evaluation.cohort
    patients = len(set(cohort.patients.tolist()))
    who, rows = _rows(evaluation.results, headline, words)
    console.table(
        f"{evaluation.target}: {count(len(cohort.slides), 'slide')} of {count(patients, 'patient')}{who}", rows
    )
    adjusted = f"p adjusted (Holm, {count(len(evaluation.comparisons), 'comparison')})"
    for aggregator in dict.fromkeys(each.aggregator for each in evaluation.comparisons):
        console.table(
            f"{aggregator}: {words}, first - second; {adjusted}",
            [_comparison_row(each, headline) for each in evaluation.comparisons if each.aggregator == aggregator],
        )
    if _any_conservative(evaluation, headline):
        console.text([CONSERVATIVE, ""])
    _print_retrieval(evaluation)
    print_site_effects(evaluation.of_representations.site_effects)
    console.facts("Leakage audit", audit_facts(evaluation))
    for note in evaluation.notes:
        console.note(f"note: {note}")


def _print_retrieval(evaluation: Evaluation) -> None:
    """Print retrieval of similar slides of other patients, with 95 % intervals, and what chance would give."""
    if not evaluation.of_representations.retrieval:
        return
    rows: list[dict[str, object]] = []
    for each in evaluation.of_representations.retrieval:
        row: dict[str, object] = {"model": each.model}
        for name in PRINTED:
            value = each.values[name]
            row[WORDS[name]] = f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
        rows.append(row)
    chance = evaluation.of_representations.retrieval[0].chance
    console.table(f"Similar slides of other patients (same label by chance: {chance:.2f})", rows)


def print_site_effects(effects: Sequence[SiteEffects]) -> None:
    """Print how strongly each representation depends on the site, and what that means."""
    if not effects:
        return
    rows = terminal_rows(effects)
    if rows:
        console.table("Site effects, with 95 % intervals over patients", rows)
    console.paragraphs([*findings(effects), meaning(effects)])


def audit_facts(evaluation: Evaluation) -> dict[str, str]:
    """Return one line on the splits and one per model: clean, or the findings and the number of splits."""
    representations = evaluation.representations
    facts = {"splits": _patients_line(evaluation.audits[representations[0].name])}
    return facts | {each.name: _model_line(each, evaluation.audits[each.name]) for each in representations}


def _rows(results: Sequence[Result], headline: str, words: str) -> tuple[str, list[dict[str, object]]]:
    """Return the title and one row per result, with a single column of names to leave room for the numbers.

    With several models and several aggregators, models are listed below each aggregator.
    """
    models, aggregators = (
        list(dict.fromkeys(getattr(each, name) for each in results)) for name in ("model", "aggregator")
    )
    if len(models) == 1:
        return f", {models[0]}", [_row("aggregator", each.aggregator, each, headline, words) for each in results]
    if len(aggregators) == 1:
        return f", {aggregators[0]}", [_row("model", each.model, each, headline, words) for each in results]
    rows: list[dict[str, object]] = []
    for aggregator in aggregators:
        found = [
            _row(_BOTH, f"  {each.model}", each, headline, words) for each in results if each.aggregator == aggregator
        ]
        rows += [dict.fromkeys(found[0], "") | {_BOTH: aggregator}, *found]
    return "", rows


def _row(title: str, name: str, result: Result, headline: str, words: str) -> dict[str, object]:
    row: dict[str, object] = {
        title: name,
        f"{words} ± sd": mean_sd(result.values[headline]),
        "95 % interval": interval(result.intervals[headline]),
    }
    return row | ({"bal. accuracy ± sd": mean_sd(result.values[_SECOND])} if _SECOND in result.values else {})


def _comparison_row(paired: PairedResult, headline: str) -> dict[str, object]:
    comparison = paired.metrics[headline]
    return {
        "first - second": f"{paired.first} - {paired.second}",
        "mean": signed(comparison.difference),
        "95 % interval": interval(comparison.interval, sign=True),
        "p t": f"{_p(paired.adjusted['shared_training'])}{marked(comparison.shared_training)}",
        "p perm.": f"{_p(paired.adjusted['permutation'])}{marked(comparison.permutation)}",
    }


def _any_conservative(evaluation: Evaluation, headline: str) -> bool:
    compared = [each.metrics[headline] for each in evaluation.comparisons]
    tests = [test for each in compared for test in (each.interval, each.shared_training, each.permutation)]
    return any(map(marked, [*(each.intervals[headline] for each in evaluation.results), *tests]))


def _patients_line(audits: Sequence[SplitAudit]) -> str:
    leaking = [audit for audit in audits if audit.shared_patients]
    if not leaking:
        return f"clean: no patient is in two parts of a split ({count(len(audits), 'split')})."
    pairs = Counter(pair for audit in leaking for pair in audit.shared_patients)
    counts = [len({name for names in audit.shared_patients.values() for name in names}) for audit in leaking]
    shares = [f"{one} and {other} in {count}" for (one, other), count in pairs.items()]
    example = next(iter(leaking[0].shared_patients.values()))
    return (
        f"LEAK: {len(leaking)} of {count(len(audits), 'split')} {agree(len(leaking), 'has', 'have')} patients in two "
        f"parts ({', '.join(shares)}), {_range(counts)} patients per split, such as {listed(example[:2])}. Results are "
        "too optimistic."
    )


def _model_line(representation: Representation, audits: Sequence[SplitAudit]) -> str:
    lines = []
    slides = {slide for audit in audits for slide in audit.pretrained_slides}
    patients = {patient for audit in audits for patient in audit.pretrained_patients}
    if slides:
        lines.append(f"pretrained on {len(slides)} of the tested slides (without their labels).")
    if patients:
        lines.append(f"pretrained on other slides of {count(len(patients), 'tested patient')}.")
    duplicates = [audit for audit in audits if audit.shared_vectors]
    if duplicates:
        shared = duplicates[0].shared_vectors[0]
        lines.append(
            f"LEAK: identical embeddings are in two parts in {len(duplicates)} of {count(len(audits), 'split')}, such "
            f"as {shared.count} in {listed(shared.slides)}."
        )
    near = [audit for audit in audits if audit.near_copies]
    if near:
        groups = {copies.slides: copies for audit in near for copies in audit.near_copies}
        lines.append(
            f"LEAK: {count(len(groups), 'group')} of near-copies {agree(len(groups), 'is', 'are')} in two parts in "
            f"{len(near)} of {count(len(audits), 'split')}, such as {next(iter(groups.values())).description}."
        )
    if not duplicates and not near:
        lines.append("clean: no embedding is in two parts.")
    if not representation.pretraining_known and representation.places is None:
        lines.append("Its training slides are unknown.")
    elif not representation.pretraining_known:
        lines.append("Its pretraining slides are unknown.")
    return " ".join(lines)


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
