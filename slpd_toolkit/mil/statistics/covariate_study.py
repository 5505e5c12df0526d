"""Does the slide add anything to covariates? Covariates alone, slide alone, and both, on the same folds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.covariates import design_matrix
from slpd_toolkit.mil.heads.fusion import fit_fusion
from slpd_toolkit.mil.heads.head import PartRows, load_head
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.evaluation import compare, intervals, judge
from slpd_toolkit.mil.statistics.paired_tests import holm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.cohort.covariates import Covariate
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.heads.head import HeadResult
    from slpd_toolkit.mil.statistics.evaluation import Comparison, Judgement, Permutations
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.statistics.model_results import Counting
    from slpd_toolkit.mil.statistics.results import Result
    from slpd_toolkit.mil.tasks.task import Task

ALONE, BOTH = "covariates", "slide and covariates"
_LINEAR = "probe"


@dataclass(frozen=True, eq=False)
class Arm:
    """Predictions of one kind on all splits."""

    folds: tuple[FoldPrediction, ...]
    values: Mapping[str, FloatArray]
    """(J,) values of each metric."""
    intervals: Mapping[str, Interval]


@dataclass(frozen=True, eq=False)
class CovariateResult:
    """One model with one aggregator, compared with the covariates."""

    slide: Result
    alone: Arm
    """Covariates alone."""
    both: Arm
    slide_adds: Mapping[str, Comparison]
    """Both minus covariates alone, by metric."""
    covariates_add: Mapping[str, Comparison]
    """Both minus slide alone, by metric."""
    adjusted: float
    """p-value of `slide_adds` by the headline metric, adjusted by Holm's method over all results."""


@dataclass(frozen=True, eq=False)
class CovariateStudy:
    """Comparisons of all results with the covariates."""

    covariates: Sequence[Covariate]
    results: Sequence[CovariateResult]


def study_covariates(
    task: Task,
    cohort: Cohort,
    covariates: Sequence[Covariate],
    splits: Sequence[Split],
    results: Sequence[Result],
    judgements: Sequence[Judgement],
    counting: Counting,
    permutations: Permutations,
) -> CovariateStudy:
    """Compare each result with the covariates.

    Covariates are predicted by the penalized linear model of the aggregator `probe`. Both are fused on the validation
    part of each fold: see `fusion`.

    Args:
        task: Prediction task.
        cohort: Slides in the order of the task's targets.
        covariates: Columns in the same order.
        splits: Training, validation and test slides.
        results: Every model with every aggregator.
        judgements: One per result.
        counting: Units of metrics, intervals and tests.
        permutations: Random swaps of the permutation test.
    """
    predicted: dict[tuple[int, int], HeadResult] = {}
    compared = []
    for result, judgement in zip(results, judgements, strict=True):
        of_fold = {(split.repeat, split.fold): split for split in splits}
        chosen = [of_fold[fold.repeat, fold.fold] for fold in result.folds]
        for split in chosen:
            key = split.repeat, split.fold
            if key not in predicted:
                predicted[key] = _predict(task, cohort, list(covariates), split)
        alone, both = [], []
        for split, fold in zip(chosen, result.folds, strict=True):
            found = predicted[split.repeat, split.fold]
            alone.append(replace(fold, outputs=_read(task, cohort, split, found.logits), attention=(), kept=None))
            both.append(replace(alone[-1], outputs=_fuse(task, cohort, split, fold, found)))
        linear = load_head(result.aggregator).linear
        of_alone, judged_alone = _arm(task, cohort, chosen, alone, counting, linear=True)
        of_both, judged_both = _arm(task, cohort, chosen, both, counting, linear=linear)
        slide_adds = compare(task, judged_both, judged_alone, permutations)
        covariates_add = compare(task, judged_both, judgement, permutations)
        compared.append(CovariateResult(result, of_alone, of_both, slide_adds, covariates_add, float("nan")))
    raw = np.array([each.slide_adds[task.headline].shared_training.p_value for each in compared])
    adjusted = holm(raw).tolist()
    return CovariateStudy(covariates, [replace(each, adjusted=p) for each, p in zip(compared, adjusted, strict=True)])


def adjust_studies(studies: Sequence[CovariateStudy], headlines: Sequence[str]) -> list[CovariateStudy]:
    """Adjust the p-values of several targets together."""
    raw = [
        each.slide_adds[headline].shared_training.p_value
        for study, headline in zip(studies, headlines, strict=True)
        for each in study.results
    ]
    adjusted = iter(holm(np.array(raw)).tolist())
    return [
        replace(study, results=[replace(each, adjusted=next(adjusted)) for each in study.results]) for study in studies
    ]


def arms_of(result: CovariateResult) -> Iterable[tuple[str, Arm]]:
    """Return covariates alone and both, by name."""
    return (ALONE, result.alone), (BOTH, result.both)


def _rows(cohort: Cohort, split: Split) -> PartRows:
    position = {slide: row for row, slide in enumerate(cohort.slides.tolist())}
    parts = ([position[slide] for slide in part] for part in split.parts.values())
    return PartRows(*(np.array(part, dtype=np.int64) for part in parts))


def _predict(task: Task, cohort: Cohort, covariates: list[Covariate], split: Split) -> HeadResult:
    rows = _rows(cohort, split)
    vectors = design_matrix(covariates, rows.train).astype(np.float32)
    bags = Bags(tuple(cohort.slides.tolist()), vectors, np.arange(len(vectors) + 1))
    head = load_head(_LINEAR)
    return head.train_and_predict(bags, task.objective(rows.train), rows, HeadTraining(), (0, 0))


def _read(task: Task, cohort: Cohort, split: Split, logits: torch.Tensor) -> FloatArray:
    return task.objective(_rows(cohort, split).train).readout.one_by_one(logits)


def _fuse(task: Task, cohort: Cohort, split: Split, fold: FoldPrediction, covariates: HeadResult) -> FloatArray:
    rows = _rows(cohort, split)
    objective = task.objective(rows.train)
    assert fold.kept is not None, "heads of an evaluation keep their logits"
    assert covariates.val_logits is not None
    seen = np.stack([fold.kept.val_logits, covariates.val_logits.double().numpy()])
    val = torch.from_numpy(rows.val)
    fusion = fit_fusion(seen, lambda logits: objective.loss(logits, val))
    tested = np.stack([fold.kept.test_logits, covariates.logits.double().numpy()])
    return objective.readout.one_by_one(torch.from_numpy(fusion(tested)))


def _arm(
    task: Task,
    cohort: Cohort,
    splits: Sequence[Split],
    folds: Sequence[FoldPrediction],
    counting: Counting,
    *,
    linear: bool,
) -> tuple[Arm, Judgement]:
    judgement = judge(task, cohort, splits, folds, unit=counting.unit, by_site=counting.by_site, linear=linear)
    return Arm(tuple(folds), judgement.values, intervals(task, judgement)), judgement
