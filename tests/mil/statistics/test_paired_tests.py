from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.statistics.division import divide_units
from slpd_toolkit.mil.statistics.intervals import Evidence, interval_of_difference, uncertainty
from slpd_toolkit.mil.statistics.paired_tests import (
    corrected_t_test,
    delong_covariance,
    delong_test,
    draw_swaps,
    holm,
    permutation_test,
    shared_training_test,
)
from tests.mil.planted import make_cohort


@pytest.mark.slow
def test_the_corrected_t_test_gives_scikit_learns_published_example() -> None:
    """The example "Statistical comparison of models using grid search": t = 0.750, one-sided p = 0.227."""
    X, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel, random_state=0), X, y, cv=folds, scoring="roc_auc")
        for kernel in ("rbf", "linear")
    )
    result = corrected_t_test(rbf - linear, 10 / 90)
    assert result.statistic == pytest.approx(0.750, abs=5e-4)
    assert result.p_value / 2 == pytest.approx(0.227, abs=5e-4)


def test_without_correction_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 12))
    expected = stats.ttest_rel(first, second)
    result = corrected_t_test(np.append(first - second, np.nan), 0.0)
    assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue))


def test_folds_that_do_not_vary() -> None:
    assert corrected_t_test(np.zeros(5), 0.1).p_value == 1
    assert math.isnan(corrected_t_test(np.full(5, -0.5), 0.1).p_value)  # no proof that other folds would not vary
    assert math.isnan(corrected_t_test(np.array([0.1, np.nan]), 0.1).p_value)


def test_swaps_are_fair_coins_of_a_seed() -> None:
    swaps = draw_swaps(7, 5000, np.random.default_rng(0))
    assert swaps.shape == (5000, 7)
    np.testing.assert_allclose(swaps.mean(axis=0), 0.5, atol=5 * 0.5 / math.sqrt(5000))
    np.testing.assert_array_equal(swaps, draw_swaps(7, 5000, np.random.default_rng(0)))


def test_the_permutation_p_value_approaches_that_of_all_permutations() -> None:
    differences = np.array([0.3, 0.1, 0.4, -0.2, 0.5, 0.2, 0.0, 0.3, 0.1, 0.2])
    observed = float(differences.mean())
    all_signs = np.array(list(itertools.product([1, -1], repeat=10)))
    exact = (np.abs((all_signs * differences).mean(axis=1)) >= observed - 1e-12).mean()
    swaps = draw_swaps(10, 20_000, np.random.default_rng(0))
    sampled = permutation_test(observed, np.where(swaps, -differences, differences).mean(axis=1))
    assert sampled.p_value == pytest.approx(exact, abs=5 * math.sqrt(exact / 20_000))
    assert sampled.statistic == observed


def test_the_permutation_p_value_counts_the_observed_difference_and_rounding_is_no_difference() -> None:
    assert permutation_test(1.0, np.zeros(99)).p_value == 0.01
    assert permutation_test(0.1 + 0.2, np.array([0.3, -0.3, 0.0])).p_value == 0.75
    assert permutation_test(-0.5, np.array([0.6, 0.1, np.nan])).p_value == pytest.approx(2 / 3)
    assert math.isnan(permutation_test(math.nan, np.zeros(3)).p_value)


def delong_by_hand(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every positive against every negative, as in the paper."""
    wins = [[[1.0 if x > y else 0.5 if x == y else 0.0 for y in s[~positive]] for x in s[positive]] for s in scores]
    psi = np.array(wins)
    by_positive, by_negative = psi.mean(axis=2), psi.mean(axis=1)
    centred_10 = by_positive - psi.mean(axis=(1, 2))[:, None]
    centred_01 = by_negative - psi.mean(axis=(1, 2))[:, None]
    m, n = by_positive.shape[1], by_negative.shape[1]
    return psi.mean(axis=(1, 2)), centred_10 @ centred_10.T / (m - 1) / m + centred_01 @ centred_01.T / (n - 1) / n


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(data=st.data(), positives=st.integers(2, 8), negatives=st.integers(2, 8))
def test_fast_delong_is_the_quadratic_one_with_ties(data: st.DataObject, positives: int, negatives: int) -> None:
    positive = np.array(data.draw(st.permutations([True] * positives + [False] * negatives)))
    row = st.lists(st.integers(0, 5), min_size=len(positive), max_size=len(positive))
    scores = np.array(data.draw(st.lists(row, min_size=3, max_size=3)), dtype=np.float64)
    areas, covariance = delong_covariance(positive, scores)
    expected_areas, expected_covariance = delong_by_hand(positive, scores)
    np.testing.assert_allclose(areas, expected_areas, atol=1e-12)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-12)
    np.testing.assert_allclose(areas, [roc_auc_score(positive, each) for each in scores], atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "first", "second", "p_value"),
    [
        # Worked by hand on glassboxmedicine.com (2020), confirmed there with R's pROC.
        ([0, 0, 1, 1, 1], [0.1, 0.2, 0.6, 0.7, 0.8], [0.3, 0.6, 0.2, 0.7, 0.9], 0.3173),
        # A test of the Julia package ROCAnalysis.
        (
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
            [0.1, 0.2, 0.05, 0.3, 0.1, 0.6, 0.6, 0.7, 0.8, 0.99, 0.8, 0.67, 0.5],
            [0.3, 0.6, 0.2, 0.1, 0.1, 0.9, 0.23, 0.7, 0.9, 0.4, 0.77, 0.3, 0.89],
            0.09453,
        ),
    ],
)
def test_delong_gives_published_p_values(
    labels: list[int], first: list[float], second: list[float], p_value: float
) -> None:
    result = delong_test(np.array(labels, dtype=bool), np.array([first, second]))
    assert result.p_value == pytest.approx(p_value, abs=1e-5 if p_value < 0.1 else 5e-5)
    assert result.statistic > 0


def test_equal_models_do_not_differ_and_no_usable_fold_is_undefined() -> None:
    positive, scores = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1])
    assert delong_test(positive, np.stack([scores, scores * 2])).p_value == 1
    assert math.isnan(delong_test(positive[1:], np.stack([scores[1:], scores[1:]])).p_value)
    assert math.isnan(delong_test(positive, np.array([[4.0, 3, 2, 1], [1.0, 2, 3, 4]])).p_value)


def test_the_t_test_has_the_variance_of_the_interval() -> None:
    cohort = make_cohort([1] * 40, ["a", "b"] * 20)
    of = divide_units(cohort, cross_validation(cohort, folds=5, repeats=2))
    rng = np.random.default_rng(0)
    noise, ranks = rng.normal(size=(2, 10, 40)) * of.tested
    difference = Evidence(np.full(10, 0.05), 0.01 * noise, ranks, 1.0)
    found, spread = shared_training_test(difference, of), uncertainty(difference, of)
    assert found.statistic == pytest.approx(0.05 / math.sqrt(spread.variance))
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.statistic, spread.degrees))
    assert (found.inflation, found.conservative) == (spread.inflation, False)
    interval = interval_of_difference(difference, of)
    assert (interval.low > 0) == (found.p_value < 0.05)


def test_equal_differences_without_any_influence_are_no_proof() -> None:
    cohort = make_cohort([1] * 40, ["a", "b"] * 20)
    of = divide_units(cohort, cross_validation(cohort, folds=5))
    nothing = np.zeros((5, 40))
    assert math.isnan(shared_training_test(Evidence(np.full(5, 0.3), nothing, nothing, 1.0), of).p_value)
    assert shared_training_test(Evidence(np.zeros(5), nothing, nothing, 1.0), of).p_value == 1


def test_holm_gives_the_example_worked_in_textbooks() -> None:
    """Four tests at 0.01, 0.04, 0.03, 0.005: R's p.adjust(method = "holm") prints 0.03, 0.06, 0.06, 0.02."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.6, 0.7])), [0.03, np.nan, 1, 1])
    assert holm(np.array([])).tolist() == []
