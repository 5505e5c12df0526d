from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.comparisons import TESTS, compare_all
from slpd_toolkit.mil.statistics.evaluation import Resampling, compare, fold_metrics, intervals
from slpd_toolkit.mil.statistics.paired_tests import holm
from slpd_toolkit.mil.statistics.results import Result
from tests.mil.planted import make_cohort, planted_bags, task_of

COHORT = make_cohort([1, 2] * 15, ["a", "b"] * 15)
TASK = task_of(COHORT)
RESAMPLING = Resampling(200, 200, seed=1)


def results(signals: dict[str, float], aggregators: tuple[str, ...]) -> list[Result]:
    splits = cross_validation(COHORT, folds=3)
    found = []
    for model, signal in signals.items():
        bags = planted_bags(COHORT, signal=signal, seed=int(10 * signal))
        for aggregator in aggregators:
            folds = tuple(run_folds(bags, TASK, splits, aggregator, training=HeadTraining(), seed=0, jobs=1))
            ranges = intervals(TASK, COHORT, folds, RESAMPLING)
            found.append(Result(model, aggregator, folds, fold_metrics(TASK, folds), ranges))
    return found


def test_every_pair_is_compared_under_its_own_aggregator_and_adjusted_for_all() -> None:
    found = results({"x": 0.0, "y": 1.0, "z": 4.0}, ("knn", "probe"))
    pairs = compare_all(TASK, COHORT, found, RESAMPLING)
    assert [(each.aggregator, each.first, each.second) for each in pairs] == [
        (aggregator, *pair) for aggregator in ("knn", "probe") for pair in (("x", "y"), ("x", "z"), ("y", "z"))
    ]
    by_name = {(each.model, each.aggregator): each for each in found}
    for each in pairs:
        one, other = by_name[each.first, each.aggregator], by_name[each.second, each.aggregator]
        assert each.metrics == compare(TASK, COHORT, one.folds, other.folds, RESAMPLING)
    for test in TESTS:
        raw = np.array([getattr(each.metrics["auc"], test).p_value for each in pairs])
        np.testing.assert_array_equal([each.adjusted[test] for each in pairs], holm(raw))


def test_one_model_has_nothing_to_be_compared_with() -> None:
    assert compare_all(TASK, COHORT, results({"x": 1.0}, ("knn", "probe")), RESAMPLING) == ()


def test_a_test_that_does_not_apply_is_not_adjusted() -> None:
    cohort = make_cohort([1] * 30, ["a", "b", "c"] * 10)
    task = task_of(cohort)
    splits = cross_validation(cohort, folds=3)
    found = []
    for name in ("x", "y"):
        bags = planted_bags(cohort, signal=2.0, seed=ord(name))
        folds = tuple(run_folds(bags, task, splits, "knn", training=HeadTraining(), seed=0, jobs=1))
        found.append(Result(name, "knn", folds, fold_metrics(task, folds), {}))
    (pair,) = compare_all(task, cohort, found, RESAMPLING)
    assert pair.metrics["auc"].delong is None
    assert np.isnan(pair.adjusted["delong"])
    assert pair.adjusted["permutation"] == pytest.approx(pair.metrics["auc"].permutation.p_value)
