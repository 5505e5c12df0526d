from __future__ import annotations

import math

import numpy as np
import pytest

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.statistics import shared_training
from slpd_toolkit.mil.statistics.division import Division, divide_units
from slpd_toolkit.mil.statistics.shared_training import (
    fold_variance_factor,
    inflation,
    largest_inflation,
    normal_scores,
)
from tests.mil.planted import make_cohort


def division(patients: int, folds: int, repeats: int) -> Division:
    cohort = make_cohort([1] * patients, ["a", "b"] * (patients // 2))
    return divide_units(cohort, cross_validation(cohort, folds=folds, repeats=repeats))


def contributions(effects: np.ndarray, of: Division) -> np.ndarray:
    """Each tested unit adds the effects of those that were trained on."""
    values: np.ndarray = of.tested * (of.trained.astype(float) @ effects.T)
    return values


@pytest.mark.parametrize(
    ("folds", "expected"), [(5, 2 / 3), (10, 7 / 8), (3, 0)], ids=["5 folds", "10 folds", "3 folds: no pair acts twice"]
)
def test_the_bound_counts_pairs_that_act_in_both_directions(folds: int, expected: float) -> None:
    """Fold k trains on all but itself and the next, so only folds that are not adjacent train on one another."""
    assert largest_inflation(division(60, folds, 1)) == pytest.approx(expected)


def test_the_bound_is_0_for_one_split_and_approaches_1_with_repeats() -> None:
    cohort = make_cohort([1] * 30, ["a", "b"] * 15)
    one = divide_units(cohort, cross_validation(cohort, folds=3)[:1])
    assert largest_inflation(one) == 0
    assert 0.85 < largest_inflation(division(60, 5, 5)) < largest_inflation(division(60, 5, 20)) < 1


def test_the_estimate_is_a_loop_over_pairs() -> None:
    of = division(20, 5, 4)
    rng = np.random.default_rng(0)
    values = rng.normal(size=of.tested.shape) * of.tested
    covariance, share = np.zeros((2, 20, 20))
    for i in range(20):
        tests = np.flatnonzero(of.tested[:, i])
        for j in range(20):
            trained = of.trained[tests, j].astype(float)
            share[i, j] = trained.mean()
            covariance[i, j] = ((values[tests, i] - values[tests, i].mean()) * (trained - trained.mean())).mean()
    spread = share * (1 - share)
    effects = (covariance * covariance.T).sum() / (spread * spread.T).sum()
    missing = effects * (share * share.T).sum() / ((values.sum(axis=0) / 4) ** 2).sum()
    assert inflation(values, of) == pytest.approx(np.clip(missing, 0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("symmetric", "expected"), [(True, 0.85), (False, 0.0)])
def test_effects_in_both_directions_are_told_from_effects_in_one(symmetric: bool, expected: float) -> None:
    """Nothing but effects of training patients, as without any signal; mean over 40 cohorts of 60 patients."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(40):
        cohort = make_cohort([1] * 60, ["a", "b"] * 30)
        of = divide_units(cohort, cross_validation(cohort, folds=5, repeats=20, seed=seed))
        effects = rng.normal(size=(60, 60))
        if symmetric:
            effects = np.tril(effects) + np.tril(effects, -1).T
        found.append(inflation(contributions(effects, of), of))
    assert np.mean(found) == pytest.approx(expected, abs=0.12)


def test_a_fixed_contribution_needs_no_inflation_and_one_test_each_tells_nothing() -> None:
    of = division(40, 5, 5)
    assert inflation(np.ones(of.tested.shape) * of.tested, of) == 0
    assert math.isnan(inflation(np.ones((5, 40)), division(40, 5, 1)))
    assert math.isnan(inflation(np.zeros(of.tested.shape), of))


def test_normal_scores_depend_on_order_alone() -> None:
    scores = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(normal_scores(scores), normal_scores(np.exp(3 * scores) - 7))
    np.testing.assert_allclose(normal_scores(np.zeros((4, 1))), 0, atol=1e-12)
    np.testing.assert_allclose(normal_scores(-scores), -normal_scores(scores), atol=1e-12)


def test_the_factor_of_folds_is_worked_out_from_the_splits() -> None:
    assert fold_variance_factor(division(60, 5, 1)) == pytest.approx((1 + 2 / 3) / (1 - (2 / 3) / 4))
    assert 1.5 <= fold_variance_factor(division(60, 5, 5)) < 1.7
    assert fold_variance_factor(division(60, 3, 1)) == 1.5


def test_splits_of_others_that_overlap_are_counted_as_they_are() -> None:
    cohort = make_cohort([1] * 4, ["a", "b"] * 2)
    slides = tuple(cohort.slides.tolist())
    splits = [Split(0, slides[2:], slides[:1], slides[:2]), Split(1, slides[:2], slides[:1], slides[2:])]
    assert largest_inflation(divide_units(cohort, splits)) == 1


@pytest.mark.parametrize(("splits", "units"), [(3, 5), (3, 40), (4, 2100)])
def test_sums_over_pairs_are_those_of_the_whole_matrix(splits: int, units: int) -> None:
    left, right = np.random.default_rng(0).random((2, splits, units)) / splits
    whole = left.T @ right
    variances = whole * (1 - whole)
    assert shared_training._sum_of_squares(left, right) == pytest.approx((whole**2).sum())
    assert shared_training._sum_of_exchanges(left, right) == pytest.approx((whole * whole.T).sum())
    assert shared_training._sum_of_spreads(left, right) == pytest.approx((variances * variances.T).sum())
