"""What the predictions of all folds amount to: metrics by fold, their intervals, and models compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.intervals import (
    Interval,
    draw_patients,
    mean_over_folds,
    percentile_interval,
)
from slpd_toolkit.mil.statistics.paired_tests import (
    PairedTest,
    corrected_t_test,
    delong_test,
    draw_swaps,
    permutation_test,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.cohort.patients import Cohort, PatientTable
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True)
class Resampling:
    """How often patients are drawn and swapped, and from which seed."""

    replicates: int = 2000
    """Bootstrap samples."""
    permutations: int = 2000
    """Random swaps of two models' predictions."""
    seed: int = 0
    """One seed for all models: their samples are the same patients, so their differences are paired."""


@dataclass(frozen=True)
class Comparison:
    """One model against another by one metric. Differences are first minus second, mean over folds."""

    difference: float
    interval: Interval
    """Bootstrap over patients, both models on the same samples."""
    corrected_t: PairedTest
    """Over folds: would it hold for other training sets?"""
    permutation: PairedTest
    """Over patients: does it hold for these heads?"""
    delong: PairedTest | None
    """For the AUC of a binary task whose test folds share no patient, one score a patient."""


def fold_metrics(task: Task, folds: Sequence[FoldPrediction]) -> dict[str, FloatArray]:
    """(J,) values of each metric, one a fold."""
    per_fold = [task.metrics(fold.rows, fold.outputs) for fold in folds]
    return {name: np.array([values[name] for values in per_fold]) for name in per_fold[0]}


def intervals(
    task: Task, cohort: Cohort, folds: Sequence[FoldPrediction], resampling: Resampling
) -> dict[str, Interval]:
    """95 % bootstrap interval over patients of each metric's mean over folds.

    Heads are taken as given: the interval says how much the test patients matter, not how much the training set does.

    Args:
        task: What was predicted.
        cohort: Its slides in the order of the task's targets.
        folds: Predictions of one model, all folds of all repeats.
        resampling: Number of samples, and their seed.
    """
    table = cohort.patient_table()
    weights = _draw(task, table, resampling)
    values = _averaged(task, _stack(table, folds), weights)
    return {name: percentile_interval(each) for name, each in values.items()}


def compare(
    task: Task,
    cohort: Cohort,
    first: Sequence[FoldPrediction],
    second: Sequence[FoldPrediction],
    resampling: Resampling,
) -> dict[str, Comparison]:
    """Compare two models that were evaluated on the same splits, metric by metric.

    Args:
        task: What was predicted.
        cohort: Its slides in the order of the task's targets.
        first: Predictions of one model, all folds of all repeats.
        second: Predictions of the other, in the same order.
        resampling: Number of samples and swaps, and their seed.
    """
    table = cohort.patient_table()
    one, other = _stack(table, first), _stack(table, second)
    assert np.array_equal(one.rows, other.rows), "models were evaluated on different splits"
    weights = _draw(task, table, resampling)
    samples_one, samples_other = _averaged(task, one, weights), _averaged(task, other, weights)
    permuted = _swapped_differences(task, one, other, len(table.ids), resampling)
    values_one, values_other = fold_metrics(task, first), fold_metrics(task, second)
    ratio = float(np.mean([len(fold.rows) / fold.train_size for fold in first]))
    found = {}
    for name in values_one:
        differences = values_one[name] - values_other[name]
        mean, _ = mean_and_sd(differences)
        found[name] = Comparison(
            mean,
            percentile_interval(samples_one[name] - samples_other[name]),
            corrected_t_test(differences, ratio),
            permutation_test(mean, permuted[name]),
            _delong(task, table, first, second) if name == "auc" else None,
        )
    return found


@dataclass(frozen=True, eq=False)
class _Rows:
    """All test predictions of a model below one another, M in all."""

    rows: IntArray
    folds: IntArray
    patients: IntArray
    outputs: FloatArray


def _stack(table: PatientTable, folds: Sequence[FoldPrediction]) -> _Rows:
    rows = np.concatenate([fold.rows for fold in folds])
    numbers = np.repeat(np.arange(len(folds)), [len(fold.rows) for fold in folds])
    return _Rows(rows, numbers, table.of_slide[rows], np.concatenate([fold.outputs for fold in folds]))


def _draw(task: Task, table: PatientTable, resampling: Resampling) -> FloatArray:
    _, first = np.unique(table.of_slide, return_index=True)
    return draw_patients(task.strata[first], resampling.replicates, np.random.default_rng([resampling.seed, 0]))


def _averaged(task: Task, stacked: _Rows, patient_weights: FloatArray) -> dict[str, FloatArray]:
    def metrics_of(chosen: IntArray, weights: FloatArray) -> dict[str, FloatArray]:
        return task.weighted_metrics(stacked.rows[chosen], stacked.outputs[chosen], weights)

    return mean_over_folds(metrics_of, stacked.folds, stacked.patients, patient_weights)


def _swapped_differences(
    task: Task, one: _Rows, other: _Rows, patients: int, resampling: Resampling
) -> dict[str, FloatArray]:
    """(R,) differences after two models traded their predictions for random patients.

    Both models' rows are stacked, and a swap is a weighting: of each patient's two predictions one has weight 1, the
    other 0. So permutations cost what the bootstrap costs, whatever the metric.
    """
    swaps = draw_swaps(patients, resampling.permutations, np.random.default_rng([resampling.seed, 1]))
    both = _Rows(
        np.concatenate([one.rows, other.rows]),
        np.concatenate([one.folds, other.folds]),
        np.concatenate([one.patients, other.patients + patients]),
        np.concatenate([one.outputs, other.outputs]),
    )
    as_first = _averaged(task, both, np.hstack([~swaps, swaps]).astype(np.float64))
    as_second = _averaged(task, both, np.hstack([swaps, ~swaps]).astype(np.float64))
    return {name: as_first[name] - as_second[name] for name in as_first}


def _delong(
    task: Task, table: PatientTable, first: Sequence[FoldPrediction], second: Sequence[FoldPrediction]
) -> PairedTest | None:
    tested = np.concatenate([np.unique(table.of_slide[fold.rows]) for fold in first])
    repeated = len(np.unique(tested)) < len(tested)  # in repeats, and in others' splits that overlap
    folds = []
    for one, other in zip(first, second, strict=True):
        binary = [task.binary_scores(fold.rows, fold.outputs) for fold in (one, other)]
        if repeated or binary[0] is None or binary[1] is None:
            return None
        _, index = np.unique(table.of_slide[one.rows], return_inverse=True)
        positive = np.bincount(index, binary[0][0]) > 0
        scores = [np.bincount(index, each[1]) / np.bincount(index) for each in binary if each is not None]
        folds.append((positive, scores[0], scores[1]))
    return delong_test(folds)
