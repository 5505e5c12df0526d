"""Evaluations with planted predictions: no head is trained, and everything after the predictions is real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.audit import audit_split, find_shared_vectors
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.comparisons import compare_all
from slpd_toolkit.mil.statistics.evaluation import Judgement, Permutations, intervals, judge
from slpd_toolkit.mil.statistics.results import Evaluation, RegionPlaces, Representation, Result
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.tasks.task import Task

REGION_L0 = 1000
HEADS = ("abmil",)


def classification(
    patients: int, classes: Sequence[str], *, ordinal: bool = False, seed: int = 0
) -> tuple[Cohort, Task]:
    """Make patients with one or two slides each and alternating classes."""
    rng = np.random.default_rng(seed)
    of_slide = np.repeat(np.arange(patients), rng.integers(1, 3, size=patients))
    targets = (of_slide % len(classes)).astype(np.int64)
    return _cohort(of_slide, np.array(classes)[targets]), (Ordinal if ordinal else Classification)(
        tuple(classes), targets
    )


def survival(patients: int, *, seed: int = 0) -> tuple[Cohort, Task]:
    """Make patients with one or two slides each and exponential times, a third of them censored."""
    rng = np.random.default_rng(seed)
    of_slide = np.repeat(np.arange(patients), rng.integers(1, 3, size=patients))
    times = rng.exponential(900, size=patients)[of_slide]
    events = (np.arange(patients) % 3 > 0)[of_slide]
    return _cohort(of_slide, np.where(events, "event", "censored")), Survival(times, events)


def planted_evaluation(
    cohort: Cohort,
    task: Task,
    strengths: Mapping[str, float],
    *,
    aggregators: Sequence[str] = ("knn", "abmil"),
    folds: int = 4,
    repeats: int = 1,
    places: bool = True,
    known: bool = False,
    leak: bool = False,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Evaluation:
    """Evaluate models whose outputs are shifted towards the truth by `strengths`; 0 is noise.

    Args:
        cohort: Slides and patients.
        task: Its targets.
        strengths: Model -> shift of its outputs towards the truth.
        aggregators: Those in `HEADS` have attention.
        folds: Number of folds per repeat.
        repeats: Number of repeats.
        places: Whether bags contain regions with coordinates, or one vector per slide.
        known: Whether the run folder lists all slides as pretraining slides.
        leak: Whether the slides of a patient are in two parts of each split.
        notes: Notes of the evaluation.
        seed: Random seed.
    """
    splits = cross_validation(cohort, folds=folds, repeats=repeats, seed=seed)
    if leak:
        splits = [_with_a_leak(cohort, split) for split in splits]
    names = list(strengths)
    representations = [_representation(name, cohort, places=places, known=known, seed=seed) for name in names]
    judged = [
        _judged(task, cohort, splits, each, aggregator, strengths[each.name], seed + 31 * number + place)
        for place, aggregator in enumerate(aggregators)
        for number, each in enumerate(representations)
    ]
    patient_of = dict(zip(cohort.slides.tolist(), cohort.patients.tolist(), strict=True))
    audits = {
        each.name: tuple(
            audit_split(split, patient_of, pretrained=each.pretrained, shared_vectors=find_shared_vectors(each.bags))
            for split in splits
        )
        for each in representations
    }
    recipe = {
        "seed": seed,
        "folds": folds,
        "aggregator": list(aggregators),
        "versions": {"slpd_toolkit": "0.1.0", "numpy": np.__version__},
        "model_sha256": dict.fromkeys(names, "0123abcd" * 8),
    }
    results, judgements = (tuple(each) for each in zip(*judged, strict=True))
    return Evaluation(
        "label <b>&",
        task,
        cohort,
        tuple(representations),
        results,
        "patient",
        False,
        compare_all(task, results, judgements, Permutations(200)),
        audits,
        recipe,
        tuple(notes),
    )


def _cohort(of_slide: IntArray, strata: np.ndarray) -> Cohort:
    number = np.zeros(len(of_slide), np.int64)
    number[1:] = of_slide[1:] == of_slide[:-1]
    slides = np.array([f"p{patient:03d}-{index}" for patient, index in zip(of_slide, number, strict=True)])
    return Cohort(slides, np.array([f"p{patient:03d}" for patient in of_slide]), strata)


def _representation(name: str, cohort: Cohort, *, places: bool, known: bool, seed: int) -> Representation:
    rng = np.random.default_rng(seed)  # the same bags for each model: their places are the same
    sizes = rng.integers(6, 14, size=len(cohort.slides)) if places else np.ones(len(cohort.slides), np.int64)
    bags = Bags.pack({str(slide): rng.normal(size=(size, 4)) for slide, size in zip(cohort.slides, sizes, strict=True)})
    pretrained = frozenset(cohort.slides.tolist()) if known else frozenset()
    if not places:
        return Representation(name, "vectors.csv", bags, None, pretrained, known)
    corners = np.concatenate(
        [np.stack([np.arange(size) % 4, np.arange(size) // 4], axis=1) * REGION_L0 for size in sizes]
    )
    where = RegionPlaces(
        corners.astype(np.int64),
        np.full(len(sizes), REGION_L0, np.int64),
        np.tile(np.array([[4 * REGION_L0, 4 * REGION_L0]]), (len(sizes), 1)),
    )
    return Representation(name, f"runs/{name}/region_vit.pt", bags, where, pretrained, known)


def _judged(
    task: Task,
    cohort: Cohort,
    splits: Sequence[Split],
    representation: Representation,
    aggregator: str,
    strength: float,
    seed: int,
) -> tuple[Result, Judgement]:
    rng = np.random.default_rng(seed)
    folds = [_prediction(task, split, representation.bags, aggregator, strength, rng) for split in splits]
    judgement = judge(task, cohort, splits, folds)
    found = intervals(task, judgement)
    return Result(representation.name, aggregator, tuple(folds), judgement.values, found), judgement


def _prediction(
    task: Task, split: Split, bags: Bags, aggregator: str, strength: float, rng: np.random.Generator
) -> FoldPrediction:
    rows = bags.index_of(split.test)
    attention: tuple[FloatArray, ...] = ()
    if aggregator in HEADS:
        attention = tuple(rng.dirichlet(np.full(size, 0.6)) for size in bags.sizes[rows].tolist())
    return FoldPrediction(
        split.repeat, split.fold, rows, _outputs(task, rows, strength, rng), len(split.train), "planted", attention
    )


def _outputs(task: Task, rows: IntArray, strength: float, rng: np.random.Generator) -> FloatArray:
    if isinstance(task, Survival):
        risks: FloatArray = strength * -np.log(task.times[rows] + 1)[:, None] + rng.normal(size=(len(rows), 1))
        hazards = np.exp(risks - risks.mean()) / 900
        return np.hstack([risks, np.exp(-hazards * task.grid)])
    assert isinstance(task, Classification)
    logits = rng.normal(size=(len(rows), len(task.classes)))
    distance = np.abs(np.arange(len(task.classes)) - task.targets[rows, None])
    logits -= strength * (distance if isinstance(task, Ordinal) else distance > 0)
    shares = np.exp(logits)
    probabilities: FloatArray = shares / shares.sum(axis=1, keepdims=True)
    return probabilities


def _with_a_leak(cohort: Cohort, split: Split) -> Split:
    """Move one slide of a test patient with two slides to train."""
    patient_of = dict(zip(cohort.slides.tolist(), cohort.patients.tolist(), strict=True))
    patients = [patient_of[slide] for slide in split.test]
    twice = next(slide for slide in split.test if patients.count(patient_of[slide]) > 1)
    test = tuple(slide for slide in split.test if slide != twice)
    return type(split)(split.fold, (*split.train, twice), split.val, test, split.repeat)
