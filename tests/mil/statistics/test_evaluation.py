from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction, run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.evaluation import (
    Comparison,
    Judgement,
    Permutations,
    compare,
    fold_metrics,
    intervals,
    judge,
    one_per_patient,
)
from slpd_toolkit.mil.statistics.paired_tests import corrected_t_test, delong_test
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from tests.mil.planted import make_cohort, planted_bags, task_of

if TYPE_CHECKING:
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.tasks.task import Task

FEW = Permutations(300, seed=4)


def as_model(cohort: Cohort, splits: list[Split], outputs: np.ndarray) -> list[FoldPrediction]:
    """A model that says outputs[i] of slide i, whichever fold it is in."""
    position = {slide: index for index, slide in enumerate(cohort.slides.tolist())}
    rows = [np.array([position[slide] for slide in split.test]) for split in splits]
    return [
        FoldPrediction(split.repeat, split.fold, each, outputs[each], len(split.train), "")
        for split, each in zip(splits, rows, strict=True)
    ]


def slides_of_patients(cohort: Cohort, split: Split) -> Split:
    """All slides of the patients whose slides are in `split`."""
    train, val, test = (
        tuple(cohort.slides[np.isin(cohort.patients, [slide[:4] for slide in part])].tolist())
        for part in split.parts.values()
    )
    return Split(split.fold, train, val, test)


def binary_outputs(cohort: Cohort, skill: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(cohort.slides))
    positive = 1 / (1 + np.exp(-(noise + skill * (cohort.strata == "b"))))
    return np.stack([1 - positive, positive], axis=1)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort([1] * 60, ["a", "b"] * 30)


def test_fold_metrics_are_the_tasks_metrics_fold_by_fold(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3, repeats=2)
    model = as_model(cohort, splits, binary_outputs(cohort, 1.0, 0))
    values = fold_metrics(task, model)
    assert values["auc"].tolist() == [task.metrics(fold.rows, fold.outputs)["auc"] for fold in model]
    assert len(values["accuracy"]) == 6


def judged(task: Task, cohort: Cohort, splits: list[Split], outputs: np.ndarray, **settings: Any) -> Judgement:
    return judge(task, cohort, splits, as_model(cohort, splits, outputs), **settings)


def compared(task: Task, cohort: Cohort, splits: list[Split], *outputs: np.ndarray) -> dict[str, Comparison]:
    one, other = (judged(task, cohort, splits, each) for each in outputs)
    return compare(task, one, other, FEW)


@pytest.mark.parametrize(
    ("aggregator", "cohorts"),
    [("knn", 3), pytest.param("probe", 20, marks=pytest.mark.slow), pytest.param("abmil", 5, marks=pytest.mark.slow)],
)
def test_noise_has_an_interval_that_holds_one_half(aggregator: str, cohorts: int) -> None:
    """In 19 of 20 cohorts, that is: fewer than 80 % happen once in 400 times; benchmarks/coverage.py counts."""
    cohort = make_cohort([1, 2] * 30, ["a", "b"] * 30)
    task, training = task_of(cohort), HeadTraining(steps=60, check_every=10, patience=3)
    hits, areas = 0, []
    for seed in range(cohorts):
        bags, splits = planted_bags(cohort, signal=0.0, seed=seed), cross_validation(cohort, folds=3, seed=seed)
        folds = list(run_folds(bags, task, splits, aggregator, training=training, seed=seed, jobs=1))
        found = judge(task, cohort, splits, folds)
        interval = intervals(task, found)["auc"]
        hits += interval.low <= 0.5 <= interval.high
        areas += found.values["auc"].tolist()
    assert hits >= 0.8 * cohorts - 1
    assert abs(np.mean(areas) - 0.5) < 0.1


def test_a_perfect_model_has_an_interval_with_a_width(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    for name, interval in intervals(task, judged(task, cohort, splits, np.eye(2)[task.targets])).items():
        assert 0.8 < interval.low < 0.95, name
        assert interval.high == 1


@pytest.mark.slow
def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Scores of two normal distributions one apart, whatever is trained: AUC is Phi(1 / sqrt 2) = 0.7602."""
    cohort = make_cohort([1] * 120, ["a", "b"] * 60)
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    hits = 0
    for seed in range(100):
        interval = intervals(task, judged(task, cohort, splits, binary_outputs(cohort, 1.0, seed)))["auc"]
        hits += interval.low < 0.7602 < interval.high
    assert hits / 100 > 0.88


def test_copies_of_slides_are_no_more_evidence() -> None:
    once, thrice = make_cohort([1] * 40, ["a", "b"] * 20), make_cohort([3] * 40, ["a", "b"] * 20)
    results = []
    for cohort in (once, thrice):
        task = task_of(cohort)
        splits = [slides_of_patients(cohort, each) for each in cross_validation(once, folds=4)]
        outputs = [
            binary_outputs(once, skill, seed)[cohort.patient_table().of_slide] for skill, seed in ((1.0, 0), (0.3, 1))
        ]
        for unit in ("patient", "slide"):
            models = [judged(task, cohort, splits, each, unit=unit) for each in outputs]
            results.append((intervals(task, models[0]), compare(task, models[0], models[1], FEW)))
    (alone, alone_compared), *others = results
    for copied, copied_compared in others:
        for name in alone:
            assert (alone[name].low, alone[name].high) == pytest.approx((copied[name].low, copied[name].high), rel=1e-4)
            one, other = alone_compared[name], copied_compared[name]
            assert one.permutation.p_value == other.permutation.p_value
            assert one.shared_training.p_value == pytest.approx(other.shared_training.p_value, rel=1e-3)
            assert one.difference == pytest.approx(other.difference)


def test_a_patient_with_ten_slides_counts_once_or_ten_times() -> None:
    cohort = make_cohort([10] + [1] * 29, ["a", "b"] * 15)
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    outputs = np.eye(2)[task.targets]
    outputs[cohort.patients == "p000"] = [0.2, 0.8]  # one patient is wrong
    outputs[0] = [0.9, 0.1]
    by_patient, by_slide = (
        judged(task, cohort, splits, outputs, unit=unit).values["accuracy"] for unit in ("patient", "slide")
    )
    assert sorted(by_patient.tolist()) == [0.9, 1, 1]
    assert min(by_slide.tolist()) == pytest.approx(10 / 19)


def test_the_mean_over_a_patients_slides_is_its_prediction() -> None:
    cohort = make_cohort([2, 1, 3], ["a", "b", "a"])
    outputs = np.arange(12, dtype=np.float64).reshape(6, 2)
    fold = FoldPrediction(0, 0, np.array([5, 0, 2, 4, 1]), outputs[[5, 0, 2, 4, 1]], 3, "")
    (found,) = one_per_patient(cohort, [fold])
    assert found.rows.tolist() == [5, 0, 2]
    np.testing.assert_array_equal(found.outputs, [[9, 10], [1, 2], [4, 5]])
    alone = make_cohort([1] * 6, ["a", "b"] * 3)
    (same,) = one_per_patient(alone, [fold])
    np.testing.assert_array_equal(same.rows, fold.rows)
    assert same.outputs.tobytes() == fold.outputs.tobytes()


@pytest.mark.slow
def test_a_comparison_is_a_loop_over_swaps() -> None:
    """The swaps again, prediction by prediction, with the metrics of scikit-learn; AUC from ranks within the fold."""
    cohort = make_cohort([1, 2] * 15, ["a", "b"] * 15)
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    models = [judged(task, cohort, splits, binary_outputs(cohort, *each)) for each in ((1.2, 0), (0.2, 1))]
    found = compare(task, models[0], models[1], Permutations(6, seed=9))
    swaps = np.random.default_rng([9, 1]).random((6, 30)) < 0.5
    for name, comparison in found.items():
        observed = float(np.mean(models[0].values[name] - models[1].values[name]))
        assert comparison.difference == pytest.approx(observed)
        permuted = []
        for swap in swaps:
            differences = []
            for one, other in zip(models[0].folds, models[1].folds, strict=True):
                outputs = [
                    stats.rankdata(each.outputs, axis=0) if name == "auc" else each.outputs for each in (one, other)
                ]
                traded = swap[cohort.patient_table().of_slide[one.rows]][:, None]
                first, second = np.where(traded, outputs[1], outputs[0]), np.where(traded, outputs[0], outputs[1])
                differences.append(task.metrics(one.rows, first)[name] - task.metrics(one.rows, second)[name])
            permuted.append(np.mean(differences))
        shrunk = abs(observed) / math.sqrt(1 + comparison.permutation.inflation)
        as_extreme = sum(abs(each) >= shrunk - 1e-12 for each in permuted)
        assert comparison.permutation.p_value == pytest.approx((as_extreme + 1) / 7), name
        assert comparison.permutation.inflation == comparison.shared_training.inflation
        assert comparison.interval.low < comparison.difference < comparison.interval.high


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_scale_and_offset_of_one_models_logits_do_not_matter(cohort: Cohort, repeats: int) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3, repeats=repeats)
    first, second = binary_outputs(cohort, 1.5, 0), binary_outputs(cohort, 0.4, 1)
    logits = np.log(first[:, 1]) - np.log(first[:, 0])
    moved = 1 / (1 + np.exp(-(3 * logits + 2)))
    plain, other = (
        compared(task, cohort, splits, each, second)["auc"] for each in (first, np.stack([1 - moved, moved], axis=1))
    )
    assert plain.permutation == other.permutation
    assert plain.shared_training.p_value == pytest.approx(other.shared_training.p_value)


def test_swapping_the_models_turns_the_sign_and_keeps_the_p_values(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    models = [judged(task, cohort, splits, binary_outputs(cohort, skill, seed)) for skill, seed in ((1.5, 0), (0.2, 1))]
    one, other = models
    ahead, behind = compare(task, one, other, FEW)["auc"], compare(task, other, one, FEW)["auc"]
    assert ahead.difference == pytest.approx(-behind.difference)
    assert (ahead.interval.low, ahead.interval.high) == pytest.approx((-behind.interval.high, -behind.interval.low))
    assert ahead.shared_training.p_value == pytest.approx(behind.shared_training.p_value)
    assert ahead.shared_training.statistic > 0
    assert ahead.corrected_t is not None
    assert behind.corrected_t is not None
    assert ahead.corrected_t.p_value == pytest.approx(behind.corrected_t.p_value)
    assert ahead.permutation.p_value == behind.permutation.p_value < 0.1
    assert ahead.corrected_t == corrected_t_test(models[0].values["auc"] - models[1].values["auc"], 20 / 20)


def test_a_model_does_not_differ_from_itself(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    model = binary_outputs(cohort, 1.0, 0)
    for comparison in compared(task, cohort, splits, model, model).values():
        assert (comparison.difference, comparison.interval.low, comparison.interval.high) == (0, 0, 0)
        assert comparison.shared_training.p_value == comparison.permutation.p_value == 1
        assert comparison.corrected_t is not None
        assert comparison.corrected_t.p_value == 1


def test_delong_is_for_two_classes_and_a_single_split(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    outputs = [binary_outputs(cohort, skill, 0) for skill in (0.0, 1.0)]
    assert compared(task, cohort, splits, *outputs)["auc"].delong is None
    found = compared(task, cohort, splits[:1], *outputs)["auc"]
    rows = as_model(cohort, splits[:1], outputs[0])[0].rows
    assert found.delong == delong_test(task.targets[rows] == 1, np.stack([each[rows, 1] for each in outputs]))
    assert found.corrected_t is None
    assert found.shared_training.inflation == 0
    assert found.delong.statistic == pytest.approx(found.shared_training.statistic, rel=1e-4)
    three = make_cohort([1] * 30, ["a", "b", "c"] * 10)
    chances = np.random.default_rng(0).dirichlet(np.ones(3), size=30)
    assert compared(task_of(three), three, cross_validation(three, folds=3)[:1], chances, chances)["auc"].delong is None


def test_sites_are_drawn_swapped_and_counted_where_they_were_split() -> None:
    cohort = make_cohort([1] * 48, ["a", "b"] * 24, [f"s{number // 4:02}" for number in range(48)])
    task, splits = task_of(cohort), cross_validation(cohort, folds=3, by_site=True)
    models = [judged(task, cohort, splits, binary_outputs(cohort, *each), by_site=True) for each in ((1, 0), (0, 1))]
    assert intervals(task, models[0])["auc"].units == 12
    found = compare(task, models[0], models[1], FEW)["auc"]
    assert found.interval.units == 12
    assert found.permutation.inflation == 1
    values = models[0].values["auc"] - models[1].values["auc"]
    spread = found.shared_training.inflation + 1
    assert found.shared_training.statistic == pytest.approx(values.mean() / math.sqrt(values.var(ddof=1) * spread / 3))


@pytest.mark.slow
def test_tests_of_equal_models_reject_as_often_as_they_say(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    p_values = []
    for seed in range(60):
        found = compared(task, cohort, splits, *(binary_outputs(cohort, 0.8, 2 * seed + i) for i in range(2)))["auc"]
        p_values.append((found.permutation.p_value, found.shared_training.p_value))
    rejected = (np.array(p_values) <= 0.1).mean(axis=0)
    # Binomial(60, 0.1) / 60 is within 0.01 and 0.22 but once in two hundred times.
    assert ((rejected > 0.01) & (rejected < 0.22)).all(), rejected


def test_repeats_of_the_same_predictions_narrow_nothing(cohort: Cohort) -> None:
    """The same predictions ten times over: the interval stays about as wide as with one repeat that has no bound."""
    task = task_of(cohort)
    widths = []
    for repeats in (2, 10):
        splits = cross_validation(cohort, folds=3, repeats=repeats)
        interval = intervals(task, judged(task, cohort, splits, binary_outputs(cohort, 0.7, 3)))["accuracy"]
        widths.append(interval.high - interval.low)
    assert widths[1] > 0.85 * widths[0]


def test_survival_and_grades_are_evaluated_alike() -> None:
    rng = np.random.default_rng(0)
    cohort = make_cohort([1] * 60, ["1", "2", "3"] * 20)
    survival: Task = Survival(rng.exponential(size=60), rng.random(60) < 0.7)
    grades: Task = Ordinal(("1", "2", "3"), np.arange(60) % 3)
    splits = cross_validation(cohort, folds=3, repeats=2)
    for task, outputs in ((survival, rng.normal(size=(60, 1))), (grades, rng.dirichlet(np.ones(3), size=60))):
        found = compared(task, cohort, splits, outputs, outputs[::-1])[task.headline]
        assert 0 < found.permutation.p_value <= 1
        assert 0 < found.shared_training.p_value <= 1
        assert found.interval.low < found.difference < found.interval.high
        for name, interval in intervals(task, judged(task, cohort, splits, outputs)).items():
            assert math.isfinite(interval.low), name
