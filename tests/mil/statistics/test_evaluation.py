from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction, run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.evaluation import Resampling, compare, fold_metrics, intervals
from slpd_toolkit.mil.statistics.paired_tests import corrected_t_test, delong_test
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from tests.mil.planted import make_cohort, planted_bags, task_of

if TYPE_CHECKING:
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.tasks.task import Task

FEW = Resampling(replicates=300, permutations=300, seed=4)


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


@pytest.mark.parametrize(
    ("aggregator", "cohorts"),
    [("knn", 20), pytest.param("probe", 20, marks=pytest.mark.slow), pytest.param("abmil", 5, marks=pytest.mark.slow)],
)
def test_noise_has_an_interval_that_holds_one_half(aggregator: str, cohorts: int) -> None:
    """In 19 of 20 cohorts, that is: fewer than 80 % happen once in 400 times."""
    cohort = make_cohort([1, 2] * 30, ["a", "b"] * 30)
    task, training = task_of(cohort), HeadTraining(steps=60, check_every=10, patience=3)
    hits, areas = 0, []
    for seed in range(cohorts):
        bags, splits = planted_bags(cohort, signal=0.0, seed=seed), cross_validation(cohort, folds=3, seed=seed)
        folds = list(run_folds(bags, task, splits, aggregator, training=training, seed=seed, jobs=1))
        interval = intervals(task, cohort, folds, FEW)["auc"]
        hits += interval.low <= 0.5 <= interval.high
        areas += fold_metrics(task, folds)["auc"].tolist()
    assert hits >= 0.8 * cohorts
    assert abs(np.mean(areas) - 0.5) < 0.05


def test_a_perfect_model_has_an_interval_without_width(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    model = as_model(cohort, splits, np.eye(2)[task.targets])
    for name, interval in intervals(task, cohort, model, FEW).items():
        assert (interval.low, interval.high, interval.replicates) == (1, 1, 300), name


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Known truth: scores of two normal distributions one apart have an AUC of Phi(1 / sqrt 2) = 0.7602."""
    cohort = make_cohort([1] * 120, ["a", "b"] * 60)
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    hits = 0
    for seed in range(100):
        model = as_model(cohort, splits, binary_outputs(cohort, 1.0, seed))
        interval = intervals(task, cohort, model, dataclasses.replace(FEW, replicates=200, seed=seed))["auc"]
        hits += interval.low < 0.7602 < interval.high
    assert 0.88 < hits / 100 < 0.99


def test_a_rare_class_is_in_every_sample() -> None:
    """Three of 33 patients: drawn without regard to class, one sample in 23 would have none of them."""
    cohort = make_cohort([1] * 33, ["a"] * 30 + ["b"] * 3)
    model = as_model(cohort, cross_validation(cohort, folds=3), binary_outputs(cohort, 1.0, 0))
    assert intervals(task_of(cohort), cohort, model, FEW)["auc"].replicates == 300


def test_copies_of_slides_are_no_more_evidence() -> None:
    once, thrice = make_cohort([1] * 40, ["a", "b"] * 20), make_cohort([3] * 40, ["a", "b"] * 20)
    results = []
    for cohort in (once, thrice):
        task = task_of(cohort)
        patients = cross_validation(once, folds=4)
        splits = [slides_of_patients(cohort, each) for each in patients]
        of_patient = [
            binary_outputs(once, skill, seed)[cohort.patient_table().of_slide] for skill, seed in ((1.0, 0), (0.3, 1))
        ]
        first, second = (as_model(cohort, splits, outputs) for outputs in of_patient)
        results.append((intervals(task, cohort, first, FEW), compare(task, cohort, first, second, FEW)))
    (alone, alone_compared), (copied, copied_compared) = results
    for name in alone:
        assert (alone[name].low, alone[name].high) == pytest.approx((copied[name].low, copied[name].high))
        one, other = alone_compared[name], copied_compared[name]
        assert one.permutation.p_value == other.permutation.p_value
        assert one.difference == pytest.approx(other.difference)
    assert alone_compared["auc"].delong is not None
    assert copied_compared["auc"].delong is not None
    assert alone_compared["auc"].delong.p_value == pytest.approx(copied_compared["auc"].delong.p_value)


def test_a_comparison_is_a_loop_over_samples_and_swaps(cohort: Cohort) -> None:
    """The swaps again, prediction by prediction, with the metrics of scikit-learn."""
    cohort = make_cohort([1, 2] * 15, ["a", "b"] * 15)
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    outputs = [binary_outputs(cohort, skill, seed) for skill, seed in ((1.2, 0), (0.2, 1))]
    few = Resampling(replicates=20, permutations=40, seed=9)
    first, second = (as_model(cohort, splits, each) for each in outputs)
    found = compare(task, cohort, first, second, few)

    def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        means = [fold_metrics(task, as_model(cohort, splits, each)) for each in (first, second)]
        return {name: float(np.nanmean(means[0][name] - means[1][name])) for name in means[0]}

    observed = difference(*outputs)
    swaps = np.random.default_rng([9, 1]).random((40, 30)) < 0.5
    permuted = []
    for swap in swaps:
        traded = swap[cohort.patient_table().of_slide][:, None]
        permuted.append(difference(np.where(traded, outputs[1], outputs[0]), np.where(traded, outputs[0], outputs[1])))
    for name, comparison in found.items():
        assert comparison.difference == pytest.approx(observed[name])
        as_extreme = sum(abs(each[name]) >= abs(observed[name]) - 1e-12 for each in permuted)
        assert comparison.permutation.p_value == pytest.approx((as_extreme + 1) / 41), name
        assert comparison.interval.low < comparison.difference < comparison.interval.high
        assert (comparison.delong is None) == (name != "auc")


def test_swapping_the_models_turns_the_sign_and_keeps_the_p_values(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    first, second = (
        as_model(cohort, splits, binary_outputs(cohort, skill, seed)) for skill, seed in ((1.5, 0), (0.2, 1))
    )
    ahead, behind = compare(task, cohort, first, second, FEW)["auc"], compare(task, cohort, second, first, FEW)["auc"]
    assert ahead.difference == pytest.approx(-behind.difference)
    assert (ahead.interval.low, ahead.interval.high) == pytest.approx((-behind.interval.high, -behind.interval.low))
    assert ahead.corrected_t.p_value == pytest.approx(behind.corrected_t.p_value)
    assert ahead.permutation.p_value == behind.permutation.p_value < 0.05
    assert ahead.delong is not None
    assert behind.delong is not None
    assert ahead.delong.p_value == pytest.approx(behind.delong.p_value)
    assert ahead.delong.statistic > 0
    folds = [(task.targets[a.rows] == 1, a.outputs[:, 1], b.outputs[:, 1]) for a, b in zip(first, second, strict=True)]
    assert ahead.delong == delong_test(folds)
    values = [fold_metrics(task, model)["auc"] for model in (first, second)]
    assert ahead.corrected_t == corrected_t_test(values[0] - values[1], 20 / 20)


def test_a_model_does_not_differ_from_itself(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    model = as_model(cohort, splits, binary_outputs(cohort, 1.0, 0))
    for comparison in compare(task, cohort, model, model, FEW).values():
        assert (comparison.difference, comparison.interval.low, comparison.interval.high) == (0, 0, 0)
        assert comparison.corrected_t.p_value == comparison.permutation.p_value == 1
        assert comparison.delong is None or comparison.delong.p_value == 1


@pytest.mark.slow
def test_tests_of_equal_models_reject_as_often_as_they_say(cohort: Cohort) -> None:
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    p_values = []
    for seed in range(60):
        first, second = (as_model(cohort, splits, binary_outputs(cohort, 0.8, 2 * seed + i)) for i in range(2))
        found = compare(task, cohort, first, second, Resampling(replicates=2, permutations=99, seed=seed))["auc"]
        assert found.delong is not None
        p_values.append((found.permutation.p_value, found.delong.p_value))
    rejected = (np.array(p_values) <= 0.1).mean(axis=0)
    # Binomial(60, 0.1) / 60 is within 0.01 and 0.22 but once in two hundred times.
    assert ((rejected > 0.01) & (rejected < 0.22)).all(), rejected


def test_delong_is_for_binary_tasks_without_repeats(cohort: Cohort) -> None:
    task, repeated = task_of(cohort), cross_validation(cohort, folds=3, repeats=2)
    model = as_model(cohort, repeated, binary_outputs(cohort, 1.0, 0))
    assert compare(task, cohort, model, model, FEW)["auc"].delong is None
    three = make_cohort([1] * 30, ["a", "b", "c"] * 10)
    outputs = np.random.default_rng(0).dirichlet(np.ones(3), size=30)
    model = as_model(three, cross_validation(three, folds=3), outputs)
    assert compare(task_of(three), three, model, model, FEW)["auc"].delong is None


def test_repeats_share_a_patients_weight_and_narrow_nothing(cohort: Cohort) -> None:
    """The same predictions ten times over: the interval stays about as wide as with one repeat."""
    task = task_of(cohort)
    widths = []
    for repeats in (1, 10):
        splits = cross_validation(cohort, folds=3, repeats=repeats)
        interval = intervals(task, cohort, as_model(cohort, splits, binary_outputs(cohort, 0.7, 3)), FEW)["accuracy"]
        widths.append(interval.high - interval.low)
    assert widths[1] > 0.85 * widths[0]


def test_survival_and_grades_are_evaluated_alike() -> None:
    rng = np.random.default_rng(0)
    cohort = make_cohort([1] * 60, ["1", "2", "3"] * 20)
    survival: Task = Survival(rng.exponential(size=60), rng.random(60) < 0.7)
    grades: Task = Ordinal(("1", "2", "3"), np.arange(60) % 3)
    splits = cross_validation(cohort, folds=3)
    for task, outputs in ((survival, rng.normal(size=(60, 1))), (grades, rng.dirichlet(np.ones(3), size=60))):
        model, other = as_model(cohort, splits, outputs), as_model(cohort, splits, outputs[::-1])
        found = compare(task, cohort, model, other, FEW)[task.headline]
        assert 0 < found.permutation.p_value <= 1
        assert math.isfinite(found.interval.low)
        assert intervals(task, cohort, model, FEW)[task.headline].replicates == 300


def test_delong_is_not_given_where_test_folds_share_patients(cohort: Cohort) -> None:
    """Splits of others may overlap: their variances do not add up, whether or not they call themselves repeats."""
    task, splits = task_of(cohort), cross_validation(cohort, folds=3)
    overlapping = [splits[0], dataclasses.replace(splits[1], test=(*splits[1].test, splits[0].test[0]))]
    for chosen, there in ((splits[:2], True), (overlapping, False)):
        one, other = (as_model(cohort, chosen, binary_outputs(cohort, skill, 0)) for skill in (0.0, 1.0))
        assert (compare(task, cohort, one, other, FEW)["auc"].delong is not None) == there
