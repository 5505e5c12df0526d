"""Single slides worth a look: the hardest, and those that are right with most confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.metrics import predicted_classes
from slpd_toolkit.report.predictions import mean_outputs, relative_ranks
from slpd_toolkit.report.wording import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.statistics.results import Result
    from slpd_toolkit.mil.tasks.task import Classification, Survival

_FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Case:
    """One slide as a row of a table."""

    row: int
    """Position in the cohort."""
    slide_id: str
    cells: Mapping[str, str]
    """Column -> text."""
    right: bool


@dataclass(frozen=True)
class Choice:
    """The slides to show of one result."""

    hardest: Sequence[Case]
    """Lowest first."""
    surest: Sequence[Case]
    """Right, most confident first."""


def wrong_in(results: Sequence[Result], task: Classification) -> IntArray:
    """(N,) under how many results each slide of the cohort is misclassified."""
    wrong = np.zeros(len(task.targets), np.int64)
    for result in results:
        found = mean_outputs(result)
        predicted = predicted_classes(found.outputs, ordinal=task.ordinal)
        wrong[found.rows[predicted != task.targets[found.rows]]] += 1
    return wrong


def choose_classified(
    result: Result, task: Classification, cohort: Cohort, wrong: IntArray, results: int, limit: int
) -> Choice:
    """Choose by the mean probability of the true class.

    Args:
        result: Whose predictions.
        task: With the true classes.
        cohort: Names of slides and patients.
        wrong: From `wrong_in`.
        results: Number of results that `wrong` counts.
        limit: Slides of either kind, at most.
    """
    found = mean_outputs(result)
    targets = task.targets[found.rows]
    predicted = predicted_classes(found.outputs, ordinal=task.ordinal)
    of_truth = found.outputs[np.arange(len(targets)), targets]
    order = np.argsort(of_truth, kind="stable")

    def case(place: int) -> Case:
        row = int(found.rows[place])
        ranked = np.argsort(-found.outputs[place], kind="stable")[:3]
        shares = ", ".join(
            f"{task.classes[index]} {number(float(found.outputs[place, index]), digits=2)}" for index in ranked
        )
        cells = {
            "patient": str(cohort.patients[row]),
            "fold": found.folds[place],
            "true": task.classes[targets[place]],
            "predicted": task.classes[predicted[place]],
            "p(true)": number(float(of_truth[place]), digits=2),
            "probabilities": shares,
            "wrong in": f"{wrong[row]} of {results}",
        }
        return Case(row, str(cohort.slides[row]), cells, right=bool(predicted[place] == targets[place]))

    surest = [place for place in order[::-1].tolist() if predicted[place] == targets[place]]
    return Choice([case(place) for place in order[:limit].tolist()], [case(place) for place in surest[:limit]])


def choose_survival(result: Result, task: Survival, cohort: Cohort, limit: int) -> Choice:
    """Choose by concordance: of the pairs of a test fold that hold the slide and whose order is known, the share that
    the risks put in that order.
    """  # noqa: D205
    pairs, right = slide_concordance(result, task)
    found = mean_outputs(result)
    ranks = np.zeros(len(task.times))
    counts = np.zeros(len(task.times))
    for fold in result.folds:
        ranks[fold.rows] += relative_ranks(fold.outputs[:, 0])
        counts[fold.rows] += 1
    known = found.rows[pairs[found.rows] >= _FEWEST_PAIRS]
    shares = right[known] / pairs[known]
    order = known[np.lexsort((-pairs[known], shares))]
    folds = dict(zip(found.rows.tolist(), found.folds, strict=True))

    def case(row: int) -> Case:
        share = right[row] / pairs[row]
        cells = {
            "patient": str(cohort.patients[row]),
            "fold": folds[row],
            "time": f"{task.times[row]:.4g}",
            "event": "seen" if task.events[row] else "censored",
            "rank of risk (0–1)": number(ranks[row] / counts[row], digits=2),
            "pairs in order": f"{100 * share:.0f} % of {pairs[row]:.0f}",
        }
        return Case(row, str(cohort.slides[row]), cells, right=bool(share > 0.5))

    surest = order[np.lexsort((-pairs[order], -right[order] / pairs[order]))]
    return Choice(
        [case(row) for row in order[:limit].tolist()],
        [case(row) for row in surest[:limit].tolist() if right[row] / pairs[row] > 0.5],
    )


def slide_concordance(result: Result, task: Survival) -> tuple[FloatArray, FloatArray]:
    """(N,) comparable pairs that each slide is in, and how many of them are in order, over all its test folds."""
    pairs, right = np.zeros((2, len(task.times)))
    for fold in result.folds:
        times, events, risks = task.times[fold.rows], task.events[fold.rows], fold.outputs[:, 0]
        later = times[:, None] < times
        censored_then = (times[:, None] == times) & ~events
        comparable = events[:, None] & (later | censored_then)
        concordant = comparable * ((risks[:, None] > risks) + (risks[:, None] == risks) / 2)
        pairs[fold.rows] += comparable.sum(axis=0) + comparable.sum(axis=1)
        right[fold.rows] += concordant.sum(axis=0) + concordant.sum(axis=1)
    return pairs, right
