"""Slides to review: the hardest, and those predicted correctly with the highest confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.figures.number_format import number
from slpd_toolkit.mil.tasks.concordance import pairs_of_cases
from slpd_toolkit.mil.tasks.predictions import mean_outputs, relative_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.kinds.classification import Classification
    from slpd_toolkit.mil.tasks.kinds.multilabel import MultiLabel
    from slpd_toolkit.mil.tasks.kinds.regression import Regression
    from slpd_toolkit.mil.tasks.kinds.survival import Survival
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

_FEWEST_PAIRS = 3
_HALF = 0.5


@dataclass(frozen=True)
class Case:
    """One slide, as a table row."""

    row: int
    """Position in the cohort."""
    slide_id: str
    cells: Mapping[str, str]
    """Column -> text."""
    right: bool


@dataclass(frozen=True)
class Choice:
    """The slides to show for one result."""

    hardest: Sequence[Case]
    """Lowest first."""
    surest: Sequence[Case]
    """Predicted correctly, most confident first."""


def wrong_in(results: Sequence[ModelOutputs], task: Classification) -> IntArray:
    """Return the number of results that misclassify each slide of the cohort, (N,)."""
    wrong = np.zeros(len(task.targets), np.int64)
    for result in results:
        found = mean_outputs(result)
        predicted = task.predicted(found.outputs)
        wrong[found.rows[predicted != task.targets[found.rows]]] += 1
    return wrong


def choose_classified(
    result: ModelOutputs,
    task: Classification,
    slides: StrArray,
    patients: StrArray,
    wrong: IntArray,
    results: int,
    limit: int,
) -> Choice:
    """Choose slides by the mean probability of the true class.

    Args:
        result: Predictions to choose from.
        task: Task with the true classes.
        slides: (N,) slide IDs.
        patients: (N,) patient of each slide.
        wrong: Result of `wrong_in`.
        results: Number of results counted in `wrong`.
        limit: Maximum number of slides of each kind.
    """
    found = mean_outputs(result)
    targets = task.targets[found.rows]
    predicted = task.predicted(found.outputs)
    of_truth = found.outputs[np.arange(len(targets)), targets]
    order = np.argsort(of_truth, kind="stable")

    def case(place: int) -> Case:
        row = int(found.rows[place])
        ranked = np.argsort(-found.outputs[place], kind="stable")[:3]
        shares = ", ".join(
            f"{task.classes[index]} {number(float(found.outputs[place, index]), digits=2)}" for index in ranked
        )
        cells = {
            "patient": str(patients[row]),
            "fold": found.folds[place],
            "true": task.classes[targets[place]],
            "predicted": task.classes[predicted[place]],
            "p(true)": number(float(of_truth[place]), digits=2),
            "probabilities": shares,
            "wrong in": f"{wrong[row]} of {results}",
        }
        return Case(row, str(slides[row]), cells, right=bool(predicted[place] == targets[place]))

    surest = [place for place in order[::-1].tolist() if predicted[place] == targets[place]]
    return Choice([case(place) for place in order[:limit].tolist()], [case(place) for place in surest[:limit]])


def choose_survival(result: ModelOutputs, task: Survival, slides: StrArray, patients: StrArray, limit: int) -> Choice:
    """Choose slides by concordance.

    The concordance of a slide is the fraction of its comparable pairs within a test fold that the risks order
    correctly.
    """
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
            "patient": str(patients[row]),
            "fold": folds[row],
            "time": f"{task.times[row]:.4g}",
            "event": "seen" if task.events[row] else "censored",
            "rank of risk (0–1)": number(ranks[row] / counts[row], digits=2),
            "pairs in order": f"{100 * share:.0f} % of {pairs[row]:.0f}",
        }
        return Case(row, str(slides[row]), cells, right=bool(share > 0.5))

    surest = order[np.lexsort((-pairs[order], -right[order] / pairs[order]))]
    return Choice(
        [case(row) for row in order[:limit].tolist()],
        [case(row) for row in surest[:limit].tolist() if right[row] / pairs[row] > 0.5],
    )


def choose_by_error(result: ModelOutputs, task: Regression, slides: StrArray, patients: StrArray, limit: int) -> Choice:
    """Choose slides by the absolute error of their mean prediction; those in the better half count as right."""
    found = mean_outputs(result)
    predicted, observed = found.outputs[:, 0], task.values[found.rows]
    errors = np.abs(predicted - observed)
    order, middle = np.argsort(-errors, kind="stable"), float(np.median(errors))

    def case(place: int) -> Case:
        row = int(found.rows[place])
        cells = {
            "patient": str(patients[row]),
            "fold": found.folds[place],
            "value": f"{observed[place]:.4g}",
            "predicted": f"{predicted[place]:.4g}",
            "error": f"{errors[place]:.4g}",
        }
        return Case(row, str(slides[row]), cells, right=bool(errors[place] <= middle))

    surest = [place for place in order[::-1].tolist() if errors[place] <= middle]
    return Choice([case(place) for place in order[:limit].tolist()], [case(place) for place in surest[:limit]])


def choose_labelled(result: ModelOutputs, task: MultiLabel, slides: StrArray, patients: StrArray, limit: int) -> Choice:
    """Choose slides by the mean probability of their true labels; those with all labels right are the surest."""
    found = mean_outputs(result)
    targets = task.targets[found.rows]
    known = targets >= 0
    of_truth = np.where(targets == 1, found.outputs, 1 - found.outputs)
    means = (of_truth * known).sum(axis=1) / known.sum(axis=1)
    right: BoolArray = np.all((of_truth > _HALF) | ~known, axis=1)
    order = np.argsort(means, kind="stable")

    def case(place: int) -> Case:
        row = int(found.rows[place])
        labels = ", ".join(
            f"{name} {task.values[index][code]}"
            for index, (name, code) in enumerate(zip(task.names, targets[place].tolist(), strict=True))
            if code >= 0
        )
        shares = zip(task.outputs, found.outputs[place].tolist(), strict=True)
        cells = {
            "patient": str(patients[row]),
            "fold": found.folds[place],
            "true": labels,
            "probabilities": ", ".join(f"{name} {number(share, digits=2)}" for name, share in shares),
            "mean p(true)": number(float(means[place]), digits=2),
        }
        return Case(row, str(slides[row]), cells, right=bool(right[place]))

    surest = [place for place in order[::-1].tolist() if right[place]]
    return Choice([case(place) for place in order[:limit].tolist()], [case(place) for place in surest[:limit]])


def slide_concordance(result: ModelOutputs, task: Survival) -> tuple[FloatArray, FloatArray]:
    """Return, over all test folds, the comparable pairs of each slide and how many are concordant, both (N,)."""
    pairs, right = np.zeros((2, len(task.times)))
    for fold in result.folds:
        found = pairs_of_cases(task.times[fold.rows], task.events[fold.rows], fold.outputs[:, 0])
        pairs[fold.rows] += found.known
        right[fold.rows] += found.right
    return pairs, right
