"""The answer of a study in three sentences: the best representation, the differences, and what remains open.

Models that use information other than the slides follow in a fourth sentence, as ceilings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slpd_toolkit.config.mil_eval import TASKS
from slpd_toolkit.core.figures.number_format import UNDEFINED, number
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.tasks.task import task_class
from slpd_toolkit.report import evaluation_folder
from slpd_toolkit.report.wording import p_value, signed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from slpd_toolkit.mil.tasks.task import Metric

Document = dict[str, Any]
"""metrics.json of `slpd mil-eval`."""

LEVEL = 0.05
_TEST, _HELD_OUT_TEST = "shared_training", "permutation"
"""Tests that sentences are based on. The test of the held-out patients is exact for few patients; heads are held
fixed."""
_NAMES = {"mean-tokens": "mean tokens", "dino": "DINO", "slpd": "SLPD"}


@dataclass(frozen=True)
class Answer:
    """The sentences, and the table that they are taken from."""

    sentences: Sequence[str]
    metric: str
    """Name of the headline metric in words."""
    rows: Sequence[ResultRow]
    """Best first; ceilings last."""
    slides: int
    """Evaluated slides, of both parts."""
    patients: tuple[int, int]
    """Evaluated patients: in cross-validation, held out."""


@dataclass(frozen=True)
class ResultRow:
    """One representation with one aggregator."""

    model: str
    aggregator: str
    inside: str
    """Mean over folds, with its 95 % interval."""
    held_out: str
    """Value on the held-out patients, with its 95 % interval; empty without any."""


def answer(document: Document, ceiling: Collection[str] = ()) -> Answer:
    """Summarize an evaluation and its held-out patients; no sentence claims more than its interval or test supports.

    Args:
        document: Contents of metrics.json.
        ceiling: Models that use information other than the slides.
    """
    headline = document["task"]["headline"]
    words = _metric(headline).words
    ranked = sorted(document["results"], key=lambda each: -_or_worst(each["metrics"][headline]["mean"]))
    outside = {
        (each["model"], each["aggregator"]): each["metrics"][headline]
        for each in document.get("external", {}).get("results", [])
    }
    rows, ceilings = list[ResultRow](), list[ResultRow]()
    for each in ranked:
        key = each["model"], each["aggregator"]
        found = outside.get(key)
        above = each["model"] in ceiling
        (ceilings if above else rows).append(
            ResultRow(
                f"{name_of(each['model'])}{' (ceiling)' if above else ''}",
                each["aggregator"],
                _with_interval(each["metrics"][headline]["mean"], each["metrics"][headline]["interval"]),
                _with_interval(found["ensemble"]["value"], found["ensemble"]) if found else "",
            )
        )
    ranked = [each for each in ranked if each["model"] not in ceiling]
    inside = _differences(document, headline, words, ceiling)
    differences = f"{inside} {_held_out_differences(document, headline, words, ceiling)}"
    sentences = [_best(document, rows[0], words), differences.rstrip(), _open(document, ranked, headline, words)]
    if ceilings:
        sentences.append(_ceiling(ceilings, words))
    cohorts = [document["cohort"], document.get("external", {}).get("cohort", {"slides": 0, "patients": 0})]
    slides, patients = (tuple(int(each[name]) for each in cohorts) for name in ("slides", "patients"))
    return Answer(sentences, words, [*rows, *ceilings], sum(slides), (patients[0], patients[1]))


def _metric(name: str) -> Metric:
    """Return a metric of any task."""
    known = (task_class(task).known_metrics for task in TASKS.names())
    return next(metrics[name] for metrics in known if name in metrics)


def read_answer(folder: Path, ceiling: Collection[str] = ()) -> Answer | None:
    """Summarize the evaluation in a folder; None if it is not complete."""
    path = folder / evaluation_folder.METRICS
    if not (folder / evaluation_folder.REPORT).exists() or not path.exists():
        return None
    return answer(json.loads(path.read_text(encoding="utf-8")), ceiling)


def name_of(model: str) -> str:
    """Return the display name of a model."""
    return _NAMES.get(model, model)


def _best(document: Document, row: ResultRow, words: str) -> str:
    patients = count(document["cohort"]["patients"], "patient")
    said = (
        f"The highest mean is that of {row.model} with {row.aggregator}: {words} {row.inside} in cross-validation of "
        f"{patients}"
    )
    if row.held_out:
        held = count(document["external"]["cohort"]["patients"], "patient")
        said += f", and {row.held_out} on {held} held out from all training"
    bare = [text for text in (row.inside, row.held_out) if text and "[" not in text]
    return f"{said} ({'no interval is defined for so few patients' if bare else '95 % intervals'})."


def _ceiling(rows: Sequence[ResultRow], words: str) -> str:
    """State what is reached with information that representations of slides do not have."""
    first = {row.model: row for row in reversed(rows)}  # the best aggregator of each model
    said = [
        f"{row.model.removesuffix(' (ceiling)')} reaches {words} {row.inside} in cross-validation with {row.aggregator}"
        + (f", and {row.held_out} on the held-out patients" if row.held_out else "")
        for row in reversed(first.values())
    ]
    return f"As a ceiling, with information other than the slides: {'; '.join(said)}."


def _differences(document: Document, headline: str, words: str, ceiling: Collection[str]) -> str:
    """State which representations differ, by the adjusted test for other training and test patients."""
    pairs = [pair for pair in document["comparisons"] if not {pair["first"], pair["second"]} & set(ceiling)]
    tested = [(pair, _adjusted(pair)) for pair in pairs]
    known = [p for _, p in tested if p is not None]
    if not tested:
        return "There is nothing to compare: a single representation was evaluated."
    if not known:
        return "Whether the representations differ cannot be determined: no paired test is defined for this cohort."
    differing = [
        _verdict(pair, p, headline, words) for pair, p in tested if p is not None and p < LEVEL
    ]  # in the order of the report
    if not differing:
        return (
            f"No difference between the representations is shown: the smallest of {len(known)} Holm-adjusted p-values "
            f"is {p_value(min(known)).removeprefix('= ')}."
        )
    rest = len(known) - len(differing)
    others = f"; {count(rest, 'other comparison')} {'shows' if rest == 1 else 'show'} no difference" if rest else ""
    return f"{'; '.join(differing)}{others}."


def _held_out_differences(document: Document, headline: str, words: str, ceiling: Collection[str]) -> str:
    """State which ensembles differ on the held-out patients; empty if none are held out or nothing is compared."""
    external = document.get("external", {})
    adjusted = [
        (pair, p) for pair in external.get("comparisons", []) if (p := _adjusted(pair, _HELD_OUT_TEST)) is not None
    ]
    tested = [(pair, p) for pair, p in adjusted if not {pair["first"], pair["second"]} & set(ceiling)]
    if not tested:
        return ""
    patients = external["cohort"]["patients"]
    start = f"On the {count(patients, 'held-out patient')}"
    if len(adjusted) * 2 ** (1 - patients) >= LEVEL:  # two of all swaps are as extreme as the most extreme
        return f"{start}, no difference could be shown: they are too few for {count(len(adjusted), 'comparison')}."
    differing = [_verdict(pair, p, headline, words) for pair, p in tested if p < LEVEL]
    if not differing:
        least = p_value(min(p for _, p in tested)).removeprefix("= ")
        return f"{start}, none is shown either: the smallest of {len(tested)} adjusted p-values is {least}."
    return f"{start}, as trained here: {'; '.join(differing)}."


def _verdict(pair: Document, p: float, headline: str, words: str) -> str:
    better, worse = name_of(pair["first"]), name_of(pair["second"])
    difference = pair["metrics"][headline]["difference"]
    if difference < 0:
        better, worse, difference = worse, better, -difference
    return (
        f"{better} is better than {worse} with {pair['aggregator']} ({signed(difference)} {words}, Holm-adjusted p "
        f"{p_value(p)})"
    )


def _open(document: Document, ranked: Sequence[Document], headline: str, words: str) -> str:
    """State which differences of SLPD and DINO the cohort cannot exclude, and whether any signal is shown."""
    chance = _metric(headline).chance
    said = []
    pair = _pair(document, ranked, "slpd", "dino")
    if pair is not None:
        said.append(_compatible(pair, headline, words))
    lowest, _ = _limits(ranked[0]["metrics"][headline]["interval"])
    if chance is not None and lowest is not None and lowest <= chance:
        said.append(
            f"even the interval of the best includes {chance:g}, the value of random guessing, so no signal is shown"
        )
    said.append("the best was chosen on these patients, so its value in cross-validation is slightly too high")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _compatible(pair: Document, headline: str, words: str) -> str:
    """State which differences of SLPD from DINO a comparison does not exclude."""
    start = "whether SLPD differs from DINO remains open: "
    limits = _limits(pair["metrics"][headline]["interval"])
    known = [value for value in limits if value is not None]
    if len(known) < len(limits):
        return start + "no interval is defined for so few patients"
    sign = 1 if pair["first"] == "slpd" else -1
    low, high = sorted(sign * value for value in known)
    if low == high:
        same = "they do not differ on these patients, which says nothing about others"
        return f"{start}with {pair['aggregator']} {same}"
    return (
        f"the cohort is compatible with a difference of SLPD from DINO of {signed(low)} to {signed(high)} {words} with "
        f"{pair['aggregator']}"
    )


def _pair(document: Document, ranked: Sequence[Document], first: str, second: str) -> Document | None:
    """Return the comparison of two models with the aggregator that ranks highest."""
    pairs = {
        each["aggregator"]: each
        for each in document["comparisons"]
        if {each["first"], each["second"]} == {first, second}
    }
    return next((pairs[each["aggregator"]] for each in ranked if each["aggregator"] in pairs), None)


def _adjusted(pair: Document, test: str = _TEST) -> float | None:
    value: float | None = pair["adjusted_p"].get(test)
    return value


def _limits(interval: Document) -> tuple[float | None, float | None]:
    return interval["low"], interval["high"]


def _with_interval(value: float | None, interval: Document) -> str:
    low, high = _limits(interval)
    if value is None:
        return UNDEFINED
    return number(value) if low is None or high is None else f"{number(value)} [{number(low)}, {number(high)}]"


def _or_worst(value: float | None) -> float:
    return float("-inf") if value is None else value
