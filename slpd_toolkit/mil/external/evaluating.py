"""Apply every head of the training cohort to all slides of an external one: metrics, drops, thresholds and sites."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.mil.bundle.bundle import predict
from slpd_toolkit.mil.external.operating_points import at_threshold
from slpd_toolkit.mil.external.results import ExternalResult, SiteRow
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.bootstrap import (
    Estimate,
    bootstrap,
    difference_of,
    percentile_interval,
    replicate_means,
    varies,
)
from slpd_toolkit.mil.statistics.division import Division
from slpd_toolkit.mil.statistics.evaluation import Judgement, one_per_patient
from slpd_toolkit.mil.statistics.influence import influences_of_units
from slpd_toolkit.mil.statistics.intervals import Evidence, interval_of_mean, uncertainty
from slpd_toolkit.mil.tasks.task import influences
from slpd_toolkit.mil.tasks.thresholds import choose_threshold
from slpd_toolkit.mil.tasks.weighted_metrics import brier_score, calibration_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, StrArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.bundle.bundle import Bundle
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.external.results import AtThreshold
    from slpd_toolkit.mil.statistics.evaluation import CountedUnit
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.tasks.task import Task

HELD_OUT, AS_IT_WAS, TUNED = "cross-validation", "external, same threshold", "external, threshold tuned on it"


@dataclasses.dataclass(frozen=True, eq=False)
class Internal:
    """The evaluation on the training cohort."""

    task: Task
    cohort: Cohort
    judgement: Judgement
    """Of the same model and aggregator as the bundle."""
    folds: Sequence[FoldPrediction]
    """Likewise, slide by slide."""
    sensitivity: float | None = None
    """Sensitivity that thresholds were chosen for; None for Youden's index."""


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """The external cohort."""

    task: Task
    cohort: Cohort
    sites: StrArray | None
    """(N,) site of each slide; None if it is not known."""
    unit: CountedUnit
    """Whether metrics count patients or slides."""


def evaluate_external(bundle: Bundle, internal: Internal, target: Target, bags: Bags, seed: int) -> ExternalResult:
    """Apply every head of a bundle to all slides of another cohort.

    Args:
        bundle: The heads.
        internal: Their results in cross-validation.
        target: The external cohort.
        bags: Its bags, in the order of its slides.
        seed: Random seed of the bootstrap.
    """
    task, cohort = target.task, target.cohort
    found = predict(_at_times_of(bundle, task), bags)
    folds = _counted(target, [head.raw for head in found.heads])
    (ensemble,) = _counted(target, [found.outputs])
    division = _one_part(cohort)
    metrics = [task.metrics(fold.rows, fold.outputs) for fold in folds]
    values = {name: np.array([each[name] for each in metrics]) for name in metrics[0]}
    intervals = _intervals(task, division, folds, values)
    outside = replicate_means(task, folds, division, seed)
    return ExternalResult(
        bundle.model,
        bundle.aggregator,
        found.heads,
        found.outputs,
        values,
        intervals,
        _estimates(task, division, ensemble),
        _drops(internal, values, intervals, outside, seed),
        _thresholds(bundle, internal, target, ensemble),
        _calibration(bundle, internal, target, ensemble, seed),
        _sites(target, found.outputs),
        sum(found.unusual),
    )


def judge_ensemble(target: Target, outputs: FloatArray) -> Judgement:
    """Return what intervals and tests of an ensemble need.

    They describe other patients of the external cohort, with the ensemble held fixed.

    Args:
        target: The external cohort.
        outputs: (n, C) output of the ensemble for each slide.
    """
    (fold,) = _counted(target, [outputs])
    division = _one_part(target.cohort)
    influence = _influences(target.task, division, fold)
    nothing = np.zeros((1, len(division.strata)))  # no patient is trained on
    evidence = {
        name: Evidence(np.array([value]), influence[name][None], nothing, 1.0)
        for name, value in target.task.metrics(fold.rows, fold.outputs).items()
    }
    return Judgement([fold], division, evidence)


def _at_times_of(bundle: Bundle, task: Task) -> Bundle:
    """Let heads report survival probabilities at the evaluation times of another cohort."""
    heads = [dataclasses.replace(head, readout=task.adapt_readout(head.readout)) for head in bundle.heads]
    return dataclasses.replace(bundle, heads=heads)


def _counted(target: Target, outputs: Sequence[FloatArray]) -> list[FoldPrediction]:
    """Return the outputs of each head, by patient where patients are counted."""
    every = np.arange(len(target.cohort.slides))
    folds = [FoldPrediction(0, number, every, values, 0, "") for number, values in enumerate(outputs)]
    return one_per_patient(target.cohort, folds) if target.unit == "patient" else folds


def _one_part(cohort: Cohort) -> Division:
    """Return a division in which all patients are tested and none is trained on."""
    table = cohort.patient_table()
    tested = np.ones((1, len(table.ids)), dtype=np.bool_)
    return Division(table.of_slide, table.strata, ~tested, tested, np.zeros(1, np.int64))


def _influences(task: Task, division: Division, fold: FoldPrediction) -> dict[str, FloatArray]:
    units = division.unit_of_row[fold.rows]
    of_cases = influences(task, fold.rows, fold.outputs)
    return {name: influences_of_units(each, units, len(division.strata)) for name, each in of_cases.items()}


def _intervals(
    task: Task, division: Division, folds: Sequence[FoldPrediction], values: Mapping[str, FloatArray]
) -> dict[str, Interval]:
    """Return the interval of each metric's mean over heads for other patients.

    The influence of a patient is its mean over the heads, which are the same for all patients.
    """
    per_head = [_influences(task, division, fold) for fold in folds]
    found = {}
    for name, of_heads in values.items():
        defined = [each[name] for each, value in zip(per_head, of_heads.tolist(), strict=True) if not math.isnan(value)]
        influence = np.mean(defined, axis=0) if defined else np.full(len(division.strata), np.nan)
        mean, _ = mean_and_sd(of_heads)
        evidence = Evidence(np.array([mean]), influence[None], np.zeros((1, len(division.strata))), 1.0)
        found[name] = interval_of_mean(evidence, division, scale=task.known_metrics[name].scale)
    return found


def _estimates(task: Task, division: Division, fold: FoldPrediction) -> dict[str, Estimate]:
    values = task.metrics(fold.rows, fold.outputs)
    intervals = _intervals(task, division, [fold], {name: np.array([value]) for name, value in values.items()})
    return {name: Estimate(value, intervals[name].low, intervals[name].high) for name, value in values.items()}


def _drops(
    internal: Internal,
    values: Mapping[str, FloatArray],
    intervals: Mapping[str, Interval],
    outside: Mapping[str, FloatArray],
    seed: int,
) -> dict[str, Estimate]:
    """Estimate the drop of each metric: cross-validation minus external cohort.

    Patients of both cohorts are resampled, and the heads stay as they are. The replicates of the cross-validation are
    widened, because folds train on each other's patients. Where the replicates of a
    cohort do not differ, the two intervals are combined.
    """
    judgement = internal.judgement
    inside = replicate_means(internal.task, judgement.folds, judgement.division, seed + 1)
    found = {}
    for name, of_heads in values.items():
        evidence = judgement.evidence[name]
        before, _ = mean_and_sd(evidence.values)
        after, _ = mean_and_sd(of_heads)
        shared = uncertainty(evidence, judgement.division).inflation
        widened = before + (inside[name] - before) * math.sqrt(1 + shared)
        replicates = widened - outside[name]
        if math.isnan(intervals[name].low):  # too few patients
            found[name] = Estimate(before - after, math.nan, math.nan)
        elif all(varies(each) for each in (inside[name], outside[name], replicates)):
            found[name] = percentile_interval(before - after, replicates)
        else:  # if all patients are predicted correctly, resampling them reveals no variance
            scale = internal.task.known_metrics[name].scale
            own = interval_of_mean(evidence, judgement.division, scale=scale)
            inner, outer = ((each.low, each.high) for each in (own, intervals[name]))
            found[name] = difference_of(Estimate(before, *inner), Estimate(after, *outer))
    return found


def held_out_outputs(bundle: Bundle, internal: Internal) -> FoldPrediction:
    """Return each patient's mean output over its slides and the heads that were tested on it, with temperatures."""
    rows, outputs = [], []
    for fold, head in zip(internal.folds, bundle.ensemble, strict=True):
        assert fold.kept is not None, "heads of an evaluation keep their logits"
        rows.append(fold.rows)
        outputs.append(head.readout.one_by_one(torch.from_numpy(fold.kept.test_logits) / head.temperature))
    tested = FoldPrediction(0, 0, np.concatenate(rows), np.concatenate(outputs), 0, "")
    (counted,) = one_per_patient(internal.cohort, [tested])
    return counted


def _thresholds(
    bundle: Bundle, internal: Internal, target: Target, ensemble: FoldPrediction
) -> tuple[AtThreshold, ...]:
    """Return sensitivity and specificity at the threshold of the bundle, and at one tuned on the external cohort."""
    if bundle.decision.kind != "threshold":
        return ()
    before = held_out_outputs(bundle, internal)
    inside = internal.task.binary_scores(before.rows, before.outputs)
    outside = target.task.binary_scores(ensemble.rows, ensemble.outputs)
    if inside is None or outside is None:
        return ()
    threshold = bundle.decision.threshold
    return (
        at_threshold(HELD_OUT, *inside, threshold),
        at_threshold(AS_IT_WAS, *outside, threshold),
        at_threshold(TUNED, *outside, choose_threshold(*outside, internal.sensitivity)),
    )


def _calibration(
    bundle: Bundle, internal: Internal, target: Target, ensemble: FoldPrediction, seed: int
) -> dict[str, tuple[Estimate, Estimate]]:
    """Return calibration error and Brier score of class probabilities, in cross-validation and here."""
    classes = bundle.decision.classes
    if not classes or bundle.decision.kind == "labels":
        return {}
    before = held_out_outputs(bundle, internal)
    measures = {"expected calibration error": calibration_error, "Brier score": brier_score}
    found = {}
    for name, measure in measures.items():
        pair = []
        for task, cohort, fold in ((internal.task, internal.cohort, before), (target.task, target.cohort, ensemble)):
            table = cohort.patient_table()
            index = {name: number for number, name in enumerate(classes)}
            targets = np.array([index[name] for name in task.strata[fold.rows].tolist()])
            of_weights = partial(measure, targets, fold.outputs)
            pair.append(bootstrap(of_weights, table.strata, table.of_slide[fold.rows], seed))
        found[name] = (pair[0], pair[1])
    return found


def _sites(target: Target, outputs: FloatArray) -> tuple[SiteRow, ...]:
    """Return the headline metric of the ensemble at each site."""
    if target.sites is None:
        return ()
    task, cohort = target.task, target.cohort
    found = []
    for site in np.unique(target.sites[target.sites != ""]):
        rows = np.flatnonzero(target.sites == site)
        fold = FoldPrediction(0, 0, rows, outputs[rows], 0, "")
        (counted,) = one_per_patient(cohort, [fold]) if target.unit == "patient" else [fold]
        patients = len(np.unique(cohort.patients[rows]))
        found.append(SiteRow(str(site), len(rows), patients, _headline_at(task, cohort, counted)))
    return tuple(found)


def _headline_at(task: Task, cohort: Cohort, fold: FoldPrediction) -> Estimate:
    whole = _one_part(cohort)
    units = np.unique(whole.unit_of_row[fold.rows])
    position = np.full(len(whole.strata), -1, np.int64)
    position[units] = np.arange(len(units))
    tested = np.ones((1, len(units)), dtype=np.bool_)
    of_row = position[whole.unit_of_row]
    division = Division(of_row, whole.strata[units], ~tested, tested, np.zeros(1, np.int64))
    name = task.headline
    value = task.metrics(fold.rows, fold.outputs)[name]
    if math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    return _estimates(task, division, fold)[name]
