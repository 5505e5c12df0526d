"""Are predicted probabilities true, and what does a threshold find? Fitted on validation parts, judged on test parts.

The head of each fold has its own temperature and threshold, both from its validation part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.evaluation import one_per_patient
from slpd_toolkit.mil.statistics.influence import influences_of_units
from slpd_toolkit.mil.statistics.intervals import Interval, interval_of_mean
from slpd_toolkit.mil.tasks import case_influences
from slpd_toolkit.mil.tasks.derivatives import of_share
from slpd_toolkit.mil.tasks.temperature import fit_temperature
from slpd_toolkit.mil.tasks.thresholds import choose_threshold
from slpd_toolkit.mil.tasks.weighted_metrics import brier_score, calibration_error, weighted_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.statistics.division import Division
    from slpd_toolkit.mil.statistics.evaluation import CountedUnit, Judgement
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True)
class Estimate:
    """Mean over folds, or over repeats for measures that need all predictions of a repeat, with its 95 % interval."""

    mean: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class Calibration:
    """Probabilities and decisions of one model, J folds."""

    temperatures: FloatArray
    """(J,) fitted on the validation part of each fold."""
    thresholds: FloatArray
    """(J,) of the scaled probability of the second class, from the validation parts; empty unless there are two."""
    sensitivity: float | None
    """The sensitivity that was asked of the thresholds; None for Youden's index."""
    estimates: Mapping[str, Estimate]
    """`ece`, `brier`, the same after temperature scaling (`ece_scaled`, `brier_scaled`); for two classes also
    `sensitivity` and `specificity` at the thresholds."""
    folds: tuple[FoldPrediction, ...]
    """Test predictions after temperature scaling."""


def calibrate(
    task: Task,
    cohort: Cohort,
    bags: Bags,
    splits: Sequence[Split],
    folds: Sequence[FoldPrediction],
    judgement: Judgement,
    *,
    unit: CountedUnit = "patient",
    sensitivity: float | None = None,
) -> Calibration | None:
    """Fit temperatures and thresholds on validation parts, and judge them on test parts.

    Args:
        task: What is predicted.
        cohort: Its slides in the order of the task's targets.
        bags: Their bags.
        splits: Training, validation and test slides.
        folds: Predictions of one model, one per split.
        judgement: Of these predictions.
        unit: What was counted in it.
        sensitivity: Choose thresholds with this sensitivity on the validation part instead of Youden's.

    Returns:
        None where heads are not stored, or do not predict classes by a softmax.
    """
    if any(fold.kept is None or fold.kept.readout.kind != "softmax" for fold in folds):
        return None
    class_index = {name: index for index, name in enumerate(task.strata_names)}
    targets = np.array([class_index[name] for name in task.strata.tolist()], dtype=np.int64)
    temperatures = np.array(
        [_temperature(task, bags, split, fold) for split, fold in zip(splits, folds, strict=True)], dtype=np.float64
    )
    scaled = [replace(fold, outputs=_scale(fold.outputs, t)) for fold, t in zip(folds, temperatures, strict=True)]
    by_slide = unit == "slide"
    before, after = (list(each) if by_slide else one_per_patient(cohort, each) for each in (folds, scaled))
    measure = _Measure(judgement, task.headline, targets)
    estimates = {}
    for suffix, predicted in (("", before), ("_scaled", after)):
        estimates[f"ece{suffix}"] = measure.calibration_error(predicted)
        estimates[f"brier{suffix}"] = measure.brier(predicted)
    thresholds = np.zeros(0)
    if after[0].outputs.shape[1] == 2:
        seen = [_validation(fold, t) for fold, t in zip(folds, temperatures, strict=True)]
        seen = seen if by_slide else one_per_patient(cohort, seen)
        thresholds = np.array([choose_threshold(targets[f.rows] == 1, f.outputs[:, 1], sensitivity) for f in seen])
        estimates["sensitivity"] = measure.recall(after, thresholds, 1)
        estimates["specificity"] = measure.recall(after, thresholds, 0)
    return Calibration(temperatures, thresholds, sensitivity, estimates, tuple(scaled))


def _temperature(task: Task, bags: Bags, split: Split, fold: FoldPrediction) -> float:
    assert fold.kept is not None
    objective = task.objective(bags.index_of(split.train))
    rows = torch.from_numpy(fold.kept.val_rows)
    return fit_temperature(fold.kept.val_logits, lambda logits: objective.loss(logits, rows))


def _validation(fold: FoldPrediction, temperature: float) -> FoldPrediction:
    """Predictions for the validation part, after temperature scaling."""
    assert fold.kept is not None
    logits = torch.from_numpy(fold.kept.val_logits / temperature)
    return replace(fold, rows=fold.kept.val_rows, outputs=fold.kept.readout.one_by_one(logits))


def _scale(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Probabilities of logits / temperature, from those of the logits."""
    logits = np.log(np.maximum(probabilities, 1e-300)) / temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: FloatArray = shares / shares.sum(axis=1, keepdims=True)
    return scaled


@dataclass(frozen=True, eq=False)
class _Measure:
    """Estimates with intervals, from predictions on the splits of a judgement."""

    judgement: Judgement
    headline: str
    targets: IntArray

    def brier(self, folds: Sequence[FoldPrediction]) -> Estimate:
        """Mean Brier score of the folds."""
        found = []
        for fold in folds:
            targets = self.targets[fold.rows]
            value = brier_score(targets, fold.outputs, np.ones((1, len(targets))))[0]
            found.append((value, case_influences.brier_score(targets, fold.outputs)))
        return self._per_fold(folds, found, self.judgement.division)

    def recall(self, folds: Sequence[FoldPrediction], thresholds: FloatArray, label: int) -> Estimate:
        """Mean share of the cases of a class that are on its side of each fold's threshold."""
        found = []
        for fold, threshold in zip(folds, thresholds.tolist(), strict=True):
            right = (fold.outputs[:, 1] >= threshold) == bool(label)
            of_class = self.targets[fold.rows] == label
            value = weighted_share(right, of_class.astype(np.float64)[None])[0]
            found.append((value, of_share(right, of_class)))
        division = self.judgement.division
        if not division.by_site:  # only patients of the class are counted
            counted = np.zeros(len(division.strata), dtype=np.bool_)
            counted[division.unit_of_row[self.targets == label]] = True
            division = replace(division, tested=division.tested & counted)
        return self._per_fold(folds, found, division)

    def calibration_error(self, folds: Sequence[FoldPrediction]) -> Estimate:
        """Expected calibration error of all predictions of a repeat: ten bins need more cases than a fold has."""
        division = self.judgement.division
        values, influence = np.zeros(len(folds)), np.zeros((len(folds), len(division.strata)))
        for repeat in np.unique(division.repeats).tolist():
            members = np.flatnonzero(division.repeats == repeat).tolist()
            targets = self.targets[np.concatenate([folds[number].rows for number in members])]
            outputs = np.concatenate([folds[number].outputs for number in members])
            units = np.concatenate([division.unit_of_row[folds[number].rows] for number in members])
            values[members] = calibration_error(targets, outputs, np.ones((1, len(targets))))[0]
            of_cases = case_influences.calibration_error(targets, outputs)
            found = influences_of_units(of_cases, units, len(division.strata))
            influence[members] = found * division.tested[members] * len(members)
        estimate = self._estimate(values, influence, division)
        if not division.by_site:
            return estimate
        reason = "the expected calibration error needs all folds together"
        return replace(estimate, interval=Interval(math.nan, math.nan, estimate.interval.units, reason=reason))

    def _per_fold(
        self, folds: Sequence[FoldPrediction], found: Sequence[tuple[float, FloatArray]], division: Division
    ) -> Estimate:
        """Return the mean over folds of a measure, from its value and the influences of the cases on each fold."""
        units = len(division.strata)
        of_units = [
            influences_of_units(influences, division.unit_of_row[fold.rows], units)
            for fold, (_, influences) in zip(folds, found, strict=True)
        ]
        return self._estimate(np.array([value for value, _ in found]), np.array(of_units), division)

    def _estimate(self, values: FloatArray, influence: FloatArray, division: Division) -> Estimate:
        evidence = replace(self.judgement.evidence[self.headline], values=values, influence=influence)
        return Estimate(mean_and_sd(values)[0], interval_of_mean(evidence, division))
