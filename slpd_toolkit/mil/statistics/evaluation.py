"""Metrics per fold from the predictions of all folds, their intervals, and comparisons of models."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.division import divide_units
from slpd_toolkit.mil.statistics.influence import influences_of_units
from slpd_toolkit.mil.statistics.intervals import Evidence, Interval, interval_of_difference, interval_of_mean
from slpd_toolkit.mil.statistics.paired_tests import (
    PairedTest,
    corrected_t_test,
    delong_test,
    draw_swaps,
    inflation_of_swaps,
    permutation_test,
    shared_training_test,
)
from slpd_toolkit.mil.statistics.shared_training import normal_scores
from slpd_toolkit.mil.statistics.swaps import swapped_differences
from slpd_toolkit.mil.tasks.task import influences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.statistics.division import Division
    from slpd_toolkit.mil.tasks.task import Task


CountedUnit = Literal["patient", "slide"]


@dataclass(frozen=True)
class Permutations:
    """Random swaps of two models' predictions."""

    count: int = 2000
    """Number of swaps."""
    seed: int = 0
    """Random seed of the swaps, which are the same for all pairs of models."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """Predictions of one model in all folds of all repeats, with the inputs of intervals and tests."""

    folds: Sequence[FoldPrediction]
    """Predictions per fold, averaged over the slides of each patient if patients are counted."""
    division: Division
    """Units that each split trains on and tests."""
    evidence: Mapping[str, Evidence]
    """Evidence by metric."""

    @property
    def values(self) -> dict[str, FloatArray]:
        """(J,) values of each metric, one per fold."""
        return {name: each.values for name, each in self.evidence.items()}


@dataclass(frozen=True)
class Comparison:
    """Comparison of two models by one metric. Differences are first minus second, averaged over folds."""

    difference: float
    interval: Interval
    """95 % interval of the difference."""
    shared_training: PairedTest
    """The test that conclusions in the report are based on: see `paired_tests.shared_training_test`."""
    permutation: PairedTest
    """Test by swapping ranks (AUC, concordance) or predictions of the models for random patients or sites."""
    corrected_t: PairedTest | None
    """Nadeau and Bengio's test, conservative; None for a single split."""
    delong: PairedTest | None
    """DeLong's test, for the AUC of two classes on a single split; None if folds share training patients."""


def one_per_patient(cohort: Cohort, folds: Sequence[FoldPrediction]) -> list[FoldPrediction]:
    """Average the outputs over the slides of each patient, so that each patient counts once per fold.

    The row of a patient is that of its first tested slide, because targets belong to patients.
    """
    of_slide = cohort.patient_table().of_slide
    found = []
    for fold in folds:
        _, first, index, counts = np.unique(
            of_slide[fold.rows], return_index=True, return_inverse=True, return_counts=True
        )
        sums = np.zeros((len(first), fold.outputs.shape[1]))
        np.add.at(sums, index, fold.outputs)
        order = np.argsort(first)  # patients in the order of slides, so that nothing changes with one slide each
        found.append(replace(fold, rows=fold.rows[first[order]], outputs=(sums / counts[:, None])[order]))
    return found


def fold_metrics(task: Task, folds: Sequence[FoldPrediction]) -> dict[str, FloatArray]:
    """(J,) values of each metric, one per fold."""
    per_fold = [task.metrics(fold.rows, fold.outputs) for fold in folds]
    return {name: np.array([values[name] for values in per_fold]) for name in per_fold[0]}


def judge(
    task: Task,
    cohort: Cohort,
    splits: Sequence[Split],
    folds: Sequence[FoldPrediction],
    *,
    unit: CountedUnit = "patient",
    by_site: bool = False,
    linear: bool = True,
) -> Judgement:
    """Compute the metrics of one model, and the inputs of intervals and tests.

    Args:
        task: Prediction task.
        cohort: Slides in the order of the task's targets.
        splits: Training, validation and test slides.
        folds: Predictions of one model, one per split, in order.
        unit: Whether metrics count patients, with the mean output of their slides, or slides.
        by_site: Whether whole sites were split.
        linear: Whether the head is linear: see `Evidence.linear`.
    """
    division = divide_units(cohort, splits, by_site=by_site)
    counted = one_per_patient(cohort, folds) if unit == "patient" else folds
    values, units = fold_metrics(task, counted), len(division.strata)
    influence = {name: np.zeros((len(counted), units)) for name in values}
    for number, fold in enumerate(counted):
        for name, of_cases in influences(task, fold.rows, fold.outputs).items():
            influence[name][number] = influences_of_units(of_cases, division.unit_of_row[fold.rows], units)
    contributions, unexplained = _contributions(task, division, counted)
    evidence = {name: Evidence(values[name], influence[name], contributions, unexplained, linear) for name in values}
    return Judgement(counted, division, evidence)


def _contributions(task: Task, division: Division, folds: Sequence[FoldPrediction]) -> tuple[FloatArray, float]:
    """Return contributions of units to the agreement of ranks with targets per fold, and the unexplained fraction."""
    contrasts = task.contrasts()
    rows = np.concatenate([fold.rows for fold in folds])
    number = np.repeat(np.arange(len(folds)), [len(fold.rows) for fold in folds])
    ranks = np.concatenate([normal_scores(task.scores(fold.outputs)) for fold in folds])
    norms = (ranks**2).sum() * (contrasts[rows] ** 2).sum()
    explained = float((ranks * contrasts[rows]).sum()) ** 2 / norms if norms > 0 else 0.0
    for name in np.unique(task.strata[rows]):
        members = task.strata[rows] == name
        ranks[members] -= ranks[members].mean(axis=0)
    contributions = np.zeros((len(folds), len(division.strata)))
    np.add.at(contributions, (number, division.unit_of_row[rows]), (ranks * contrasts[rows]).mean(axis=1))
    return contributions, 1 - explained


def intervals(task: Task, judgement: Judgement) -> dict[str, Interval]:
    """Compute the 95 % interval of the mean over folds of each metric: see `intervals.interval_of_mean`."""
    return {
        name: interval_of_mean(each, judgement.division, scale=task.known_metrics[name].scale)
        for name, each in judgement.evidence.items()
    }


def compare(task: Task, one: Judgement, other: Judgement, permutations: Permutations) -> dict[str, Comparison]:
    """Compare two models that were evaluated on the same splits, metric by metric.

    Args:
        task: Prediction task.
        one: The first model.
        other: The second model.
        permutations: Number of swaps, and their seed.
    """
    first, second, division = one.folds, other.folds, one.division
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(first, second, strict=True)), (
        "models were evaluated on different splits"
    )
    rng = np.random.default_rng([permutations.seed, 1])
    permuted = swapped_differences(
        task, division, first, second, draw_swaps(len(division.strata), permutations.count, rng)
    )
    found = {}
    for name in one.evidence:
        difference = _subtract(one.evidence[name], other.evidence[name])
        mean, _ = mean_and_sd(difference.values)
        t = shared_training_test(difference, division)
        shared, conservative = inflation_of_swaps(t, division)
        permutation = permutation_test(mean / math.sqrt(1 + shared), permuted[name])
        found[name] = Comparison(
            mean,
            interval_of_difference(difference, division),
            t,
            replace(permutation, statistic=mean, inflation=shared, conservative=conservative),
            corrected_t_test(difference.values, division.test_train_ratio) if len(first) > 1 else None,
            _delong(task, first, second) if name == "auc" else None,
        )
    return found


def _subtract(one: Evidence, other: Evidence) -> Evidence:
    return Evidence(
        one.values - other.values,
        one.influence - other.influence,
        one.contributions - other.contributions,
        max(one.unexplained, other.unexplained),
        one.linear and other.linear,
    )


def _delong(task: Task, first: Sequence[FoldPrediction], second: Sequence[FoldPrediction]) -> PairedTest | None:
    if len(first) > 1:
        return None
    binary = [task.binary_scores(folds[0].rows, folds[0].outputs) for folds in (first, second)]
    if binary[0] is None or binary[1] is None:
        return None
    return delong_test(binary[0][0], np.stack([binary[0][1], binary[1][1]]))
