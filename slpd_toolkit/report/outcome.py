"""Sentences and tables that summarize an evaluation; no claim goes beyond its test."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.text import count
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.report.wording import (
    TESTS,
    bare_interval,
    conservative,
    interval,
    marked,
    mean_sd,
    p_value,
    signed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.cohort.audit import SplitAudit
    from slpd_toolkit.mil.statistics.results import Evaluation, PairedResult, Result

LEVEL = 0.05
"""Significance level of adjusted p-values."""
_TEST = "shared_training"


@dataclass(frozen=True)
class Verdict:
    """One comparison, as a sentence."""

    text: str
    p_value: float
    """Adjusted p-value of the test that it is based on; infinite without one."""
    differs: bool
    """Whether the sentence claims a difference that would hold for other training sets."""


@dataclass(frozen=True)
class ComparisonTable:
    """All comparisons by one metric."""

    tests: Sequence[str]
    """Tests that are defined for at least one comparison."""
    rows: Sequence[ComparisonRow]


@dataclass(frozen=True)
class ComparisonRow:
    """One comparison."""

    aggregator: str
    first: str
    second: str
    difference: str
    interval: str
    p_values: Sequence[str]
    """p-value of each test; for the headline metric, with the adjusted one in brackets."""


@dataclass(frozen=True)
class Leaks:
    """Findings of the audit that are the same for one or more representations."""

    models: Sequence[str]
    splits: Sequence[tuple[str, Sequence[str]]]
    """Name and findings of each split that leaks."""


def best_first(results: Sequence[Result], headline: str) -> list[Result]:
    """Sort results by their mean over folds; undefined ones come last."""

    def key(result: Result) -> tuple[bool, float]:
        mean, _ = mean_and_sd(result.values[headline])
        return math.isnan(mean), -mean

    return sorted(results, key=key)


def verdict(paired: PairedResult, headline: str, words: str) -> Verdict:
    """Describe the result of a comparison in words.

    The t-test for shared training patients is valid for other training and test patients. On a single split it is
    conditional on the heads, and supports no claim about other training sets.
    """
    found = paired.metrics[headline]
    better, other, difference, within = paired.first, paired.second, found.difference, found.interval
    if difference < 0:  # the sentence starts with the better model
        better, other, difference = other, better, -difference
        within = replace(within, low=-within.high, high=-within.low)
    range_of = bare_interval(within, sign=True)
    start = f"{better} against {other}, {paired.aggregator}: {signed(difference)} {words} {range_of}"
    p = paired.adjusted.get(_TEST, math.nan)
    if math.isnan(p):
        return Verdict(f"{start}; no test is defined.", math.inf, differs=False)
    said = f"{conservative(found.shared_training)}Holm-adjusted p {p_value(p)}"
    if p >= LEVEL:
        return Verdict(f"{start}; not distinguishable ({said}).", p, differs=False)
    if found.corrected_t is None:
        text = (
            f"these heads of {better} are better ({said}); a single split allows no conclusion about other training "
            "sets"
        )
        return Verdict(f"{start}; {text}.", p, differs=False)
    return Verdict(f"{start}; {better} is better ({said}).", p, differs=True)


def sentences(evaluation: Evaluation) -> list[str]:
    """Summarize the outcome in sentences."""
    headline, words = evaluation.task.headline, evaluation.task.known_metrics[evaluation.task.headline].words
    best = best_first(evaluation.results, headline)[0]
    first = (
        f"{best.model}, {best.aggregator}: {words} {mean_sd(best.values[headline])} over "
        f"{count(len(best.folds), 'fold')}, {conservative(best.intervals[headline])}95 % interval "
        f"{bare_interval(best.intervals[headline])}."
    )
    if len(evaluation.results) > 1:
        first = f"Highest mean: {first} It was selected on these test folds, so expect a slightly lower value."
    said = [first]
    verdicts = [verdict(paired, headline, words) for paired in evaluation.comparisons]
    if verdicts:
        differing = sum(each.differs for each in verdicts)
        who = "sites" if evaluation.by_site else "patients"
        said.append(
            f"{differing or 'None'} of {count(len(verdicts), 'comparison')} between models "
            f"{'shows' if differing <= 1 else 'show'} a difference that is expected to hold with other training and "
            f"test {who} (t-test over {who}, Holm-adjusted p < {LEVEL})."
        )
    return said + _near_chance(evaluation)


def _near_chance(evaluation: Evaluation) -> list[str]:
    headline = evaluation.task.headline
    chance = evaluation.task.known_metrics[headline].chance
    if chance is None:
        return []
    near = [
        f"{each.model}, {each.aggregator}"
        for each in evaluation.results
        if each.intervals[headline].low <= chance <= each.intervals[headline].high
    ]
    if not near:
        return []
    which = f"The interval of {'; '.join(near)} contains"
    if len(near) == len(evaluation.results):
        which = "The interval contains" if len(near) == 1 else "All intervals contain"
    return [f"{which} {chance:g}, the value of random guessing: no signal is shown."]


def comparison_table(comparisons: Sequence[PairedResult], name: str, headline: str) -> ComparisonTable:
    """Tabulate the comparisons by one metric; only those by the headline metric have adjusted p-values."""
    tests = [test for test in TESTS if any(getattr(each.metrics[name], test) is not None for each in comparisons)]

    def p_of(paired: PairedResult, test: str) -> str:
        result = getattr(paired.metrics[name], test)
        if result is None:
            return "–"
        p = f"{p_value(result.p_value).removeprefix('= ')}{marked(result)}"
        adjusted = paired.adjusted.get(test, math.nan) if name == headline else math.nan
        return p if math.isnan(adjusted) else f"{p} ({p_value(adjusted).removeprefix('= ')})"

    return ComparisonTable(
        [TESTS[test] for test in tests],
        [
            ComparisonRow(
                paired.aggregator,
                paired.first,
                paired.second,
                signed(paired.metrics[name].difference),
                interval(paired.metrics[name].interval, sign=True),
                [p_of(paired, test) for test in tests],
            )
            for paired in comparisons
        ],
    )


def leaks(audits: Mapping[str, Sequence[SplitAudit]]) -> list[Leaks]:
    """Collect the findings of the audits; representations with the same findings are grouped."""
    found: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    for model, splits in audits.items():
        repeated = len({each.repeat for each in splits}) > 1
        leaking = tuple(
            (f"repeat {each.repeat}, fold {each.fold}" if repeated else f"fold {each.fold}", tuple(each.findings))
            for each in splits
            if not each.clean
        )
        if leaking:
            found.setdefault(leaking, []).append(model)
    return [Leaks(models, splits) for splits, models in found.items()]


def alarm(audits: Mapping[str, Sequence[SplitAudit]]) -> tuple[str, str]:
    """Return a short label and a sentence for the severity of the audit's findings."""
    found = [each for splits in audits.values() for each in splits]
    if any(each.shared_patients or each.shared_vectors or each.near_copies for each in found):
        return "the splits leak", "These splits leak from train to test: the results below may be too optimistic."
    if not all(each.clean for each in found):
        return (
            "pretraining used test patients",
            "Pretraining used slides of test patients, without labels: results on new patients may be lower.",
        )
    return "nothing found", ""


def fold_facts(evaluation: Evaluation) -> dict[str, str]:
    """Describe how the cohort was split."""
    folds = max((result.folds for result in evaluation.results), key=len)
    fewest = min(len(result.folds) for result in evaluation.results)
    repeats = len({fold.repeat for fold in folds})
    tests, trains = ([len(fold.rows) for fold in folds], [fold.train_size for fold in folds])
    tested = np.unique(np.concatenate([fold.rows for fold in folds]))
    times = f" in {count(repeats, 'repeat')}" if repeats > 1 else ""
    return {
        "folds": f"{count(len(folds), 'split')}{times}" + (f"; networks: {fewest}" if fewest < len(folds) else ""),
        "counted": "each slide" if evaluation.unit == "slide" else "each patient, by the mean prediction of its slides",
        "intervals and tests": "over sites" if evaluation.by_site else "over patients",
        "training slides": _range(trains),
        "test slides": f"{_range(tests)} per fold; {count(len(tested), 'slide')} tested at least once",
    }


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
