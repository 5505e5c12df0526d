"""From an evaluation to bundles: temperatures and thresholds from validation parts, distances from held-out slides."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.mil.bundle.bundle import COVARIATES, FINAL, Bundle, BundledHead
from slpd_toolkit.mil.bundle.decision import decision_of
from slpd_toolkit.mil.bundle.distance import TrainingSet
from slpd_toolkit.mil.descriptors.descriptor import describe_bags
from slpd_toolkit.mil.heads.fold_predictions import with_descriptor
from slpd_toolkit.mil.heads.head import load_head
from slpd_toolkit.mil.statistics.tables import finite, result_document
from slpd_toolkit.mil.tasks.temperature import fit_temperature
from slpd_toolkit.mil.tasks.thresholds import choose_threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.bundle.decision import Decision
    from slpd_toolkit.mil.bundle.origin import Origin
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.heads.training import HeadTraining
    from slpd_toolkit.mil.statistics.results import Evaluation, Representation, Result
    from slpd_toolkit.mil.tasks.task import Task

_FINAL_STREAM = 1 << 31
"""Part of the seed of heads that are trained on all patients; no repeat has this number."""


@dataclasses.dataclass(frozen=True)
class FinalTraining:
    """How heads are trained on all patients."""

    training: HeadTraining
    seed: int


def make_bundles(
    evaluation: Evaluation, splits: Sequence[Split], origins: Mapping[str, Origin], final: FinalTraining | None = None
) -> list[Bundle]:
    """Collect the heads of an evaluation: one bundle per model and aggregator.

    Args:
        evaluation: The results.
        splits: Training, validation and test slides of each split.
        origins: What the embeddings of each model were made of; models without an origin have no bundle.
        final: How one more head per bundle is trained on all patients; None for none.
    """
    of_model = {each.name: each for each in evaluation.representations}
    of_fold = {(split.repeat, split.fold): split for split in splits}
    training_sets: dict[str, TrainingSet] = {}
    bundles = []
    for result in evaluation.results:
        if result.model not in origins or any(fold.kept is None for fold in result.folds):
            continue
        if result.model not in training_sets:
            first = [fold.rows for fold in result.folds if fold.repeat == result.folds[0].repeat]
            training_sets[result.model] = TrainingSet.of(of_model[result.model].bags.mean(), first)
        chosen = [of_fold[fold.repeat, fold.fold] for fold in result.folds]
        bundles.append(
            _make_bundle(
                evaluation,
                result,
                chosen,
                origins[result.model],
                training_sets[result.model],
                of_model[result.model],
                final,
            )
        )
    return bundles


def _make_bundle(
    evaluation: Evaluation,
    result: Result,
    splits: Sequence[Split],
    origin: Origin,
    training_set: TrainingSet,
    representation: Representation,
    final: FinalTraining | None,
) -> Bundle:
    task, cohort, bags = evaluation.task, evaluation.cohort, representation.bags
    heads = [_head(task, bags, fold, split) for fold, split in zip(result.folds, splits, strict=True)]
    sensitivity = result.calibration.sensitivity if result.calibration is not None else None
    decision = _decision(task, cohort, heads, result.folds, sensitivity)
    if final is not None:
        heads.append(_train_final(task, representation, result, heads, final))
    return Bundle(
        result.model,
        result.aggregator,
        evaluation.target,
        task.document(),
        origin,
        heads,
        decision,
        training_set,
        bags.mean() if load_head(result.aggregator).compares and not origin.is_fitted else None,
        _facts(evaluation, result),
    )


def _facts(evaluation: Evaluation, result: Result) -> dict[str, object]:
    cohort, study = evaluation.cohort, evaluation.of_representations.covariates
    unused = {} if study is None else {COVARIATES: [each.name for each in study.covariates]}
    return unused | {
        "slides": len(cohort.slides),
        "patients": len(np.unique(cohort.patients)),
        "counted": evaluation.unit,
        "unit_of_inference": "site" if evaluation.by_site else "patient",
        "metrics": finite(result_document(result)["metrics"]),
    }


def _train_final(
    task: Task, representation: Representation, result: Result, heads: Sequence[BundledHead], final: FinalTraining
) -> BundledHead:
    head, bags, descriptor = load_head(result.aggregator), representation.bags, representation.descriptor
    rows = np.arange(len(bags.slides))
    objective = task.objective(rows)
    weights, order = np.random.SeedSequence([final.seed, _FINAL_STREAM]).generate_state(2)
    settings = [fold.setting for fold in result.folds]
    fitted = None if descriptor is None else descriptor.fit(bags, rows, int(weights))
    described = bags if fitted is None else describe_bags(fitted, bags)
    trained = head.refit(described, objective, rows, final.training, (int(weights), int(order)), settings)
    state = trained.state if fitted is None else with_descriptor(head, trained.state, fitted, described)
    typical = float(np.exp(np.mean(np.log([each.temperature for each in heads]))))
    pooled = np.sort(np.concatenate([each.held_out_risks for each in heads]))
    return BundledHead(FINAL, state, trained.setting, objective.readout, typical, pooled)


def _head(task: Task, bags: Bags, fold: FoldPrediction, split: Split) -> BundledHead:
    kept = fold.kept
    assert kept is not None, "heads of an evaluation keep their state"
    objective = task.objective(bags.index_of(split.train))
    rows = torch.from_numpy(kept.val_rows)
    temperature = 1.0  # numbers have no confidence
    if kept.readout.kind != "identity":
        temperature = fit_temperature(kept.val_logits, lambda logits: objective.loss(logits, rows))
    risks = np.sort(fold.outputs[:, 0]) if kept.readout.kind == "risk" else np.zeros(0)
    return BundledHead(f"{fold.repeat}.{fold.fold}", kept.state, fold.setting, kept.readout, temperature, risks)


def _decision(
    task: Task,
    cohort: Cohort,
    heads: Sequence[BundledHead],
    folds: Sequence[FoldPrediction],
    sensitivity: float | None,
) -> Decision:
    """Choose the thresholds on the validation parts, each patient by the mean over slides and heads."""
    kind = heads[0].readout.kind
    found = task.document().get("classes")
    decision = decision_of(kind, [str(name) for name in found] if isinstance(found, list) else ())
    if decision.kind == "threshold":
        binary = task.binary_scores(np.arange(len(cohort.slides)), np.zeros((len(cohort.slides), 2)))
        assert binary is not None
        scores, positive = validation_scores(cohort, heads, folds, 1, binary[0].astype(np.float64))
        return dataclasses.replace(decision, threshold=choose_threshold(positive > 0, scores, sensitivity))
    if decision.kind == "labels":
        truth = task.contrasts()
        seen = [validation_scores(cohort, heads, folds, index, truth[:, index]) for index in range(truth.shape[1])]
        thresholds = [choose_threshold(signs[signs != 0] > 0, scores[signs != 0], None) for scores, signs in seen]
        return dataclasses.replace(decision, thresholds=tuple(thresholds))
    return decision


def validation_scores(
    cohort: Cohort, heads: Sequence[BundledHead], folds: Sequence[FoldPrediction], column: int, truth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the score of one output for each patient of the validation parts, and the truth of that patient.

    Scores are averaged over the slides of a patient and the heads that did not train on it, after temperature scaling.

    Args:
        cohort: Slides and patients.
        heads: Heads of the folds.
        folds: Their predictions.
        column: The output.
        truth: (N,) of each slide; equal for all slides of a patient.
    """
    of_slide = cohort.patient_table().of_slide
    patients, values = [], []
    for head, fold in zip(heads, folds, strict=False):
        assert fold.kept is not None
        logits = torch.from_numpy(fold.kept.val_logits) / head.temperature
        values.append(head.readout.one_by_one(logits)[:, column])
        patients.append(of_slide[fold.kept.val_rows])
    seen, index = np.unique(np.concatenate(patients), return_inverse=True)
    scores = np.bincount(index, np.concatenate(values)) / np.bincount(index)
    of_patient = np.zeros(int(of_slide.max()) + 1)
    of_patient[of_slide] = truth
    return scores, of_patient[seen]
