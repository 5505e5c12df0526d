from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.comparisons import TESTS, compare_all
from slpd_toolkit.mil.statistics.evaluation import Judgement, Permutations, compare, intervals, judge
from slpd_toolkit.mil.statistics.paired_tests import holm
from slpd_toolkit.mil.statistics.results import Result
from tests.mil.planted import make_cohort, planted_bags, task_of

COHORT = make_cohort([1, 2] * 15, ["a", "b"] * 15)
TASK = task_of(COHORT)
SWAPS = Permutations(200, seed=1)


def results(signals: dict[str, float], aggregators: tuple[str, ...]) -> tuple[list[Result], list[Judgement]]:
    splits = cross_validation(COHORT, folds=3)
    found, judgements = [], []
    for model, signal in signals.items():
        bags = planted_bags(COHORT, signal=signal, seed=int(10 * signal))
        for aggregator in aggregators:
            folds = tuple(run_folds(bags, TASK, splits, aggregator, training=HeadTraining(), seed=0, jobs=1))
            judgements.append(judge(TASK, COHORT, splits, folds))
            found.append(Result(model, aggregator, folds, judgements[-1].values, intervals(TASK, judgements[-1])))
    return found, judgements


@pytest.mark.slow
def test_every_pair_is_compared_under_its_own_aggregator_and_adjusted_for_all() -> None:
    found, judgements = results({"x": 0.0, "y": 1.0, "z": 4.0}, ("knn", "probe"))
    pairs = compare_all(TASK, found, judgements, SWAPS)
    assert [(each.aggregator, each.first, each.second) for each in pairs] == [
        (aggregator, *pair) for aggregator in ("knn", "probe") for pair in (("x", "y"), ("x", "z"), ("y", "z"))
    ]
    by_name = {(each.model, each.aggregator): judged for each, judged in zip(found, judgements, strict=True)}
    for each in pairs:
        one, other = by_name[each.first, each.aggregator], by_name[each.second, each.aggregator]
        assert repr(each.metrics) == repr(compare(TASK, one, other, SWAPS))
    for test in ("shared_training", "permutation", "corrected_t"):
        raw = np.array([getattr(each.metrics["auc"], test).p_value for each in pairs])
        np.testing.assert_array_equal([each.adjusted[test] for each in pairs], holm(raw))


def test_one_model_has_nothing_to_be_compared_with() -> None:
    assert compare_all(TASK, *results({"x": 1.0}, ("knn", "probe")), SWAPS) == ()


def test_a_test_that_does_not_apply_is_not_adjusted() -> None:
    (pair,) = compare_all(TASK, *results({"x": 1.0, "y": 2.0}, ("knn",)), SWAPS)
    assert pair.metrics["auc"].delong is None
    assert np.isnan(pair.adjusted["delong"])
    assert pair.adjusted["permutation"] == pytest.approx(pair.metrics["auc"].permutation.p_value)
    assert set(pair.adjusted) == set(TESTS)
