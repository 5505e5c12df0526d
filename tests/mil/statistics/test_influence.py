from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slpd_toolkit.mil.statistics.influence import influences_of_units, variance_of_mean
from slpd_toolkit.mil.statistics.paired_tests import delong_covariance
from slpd_toolkit.mil.tasks import case_influences


def binary(cases: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (np.arange(cases) % 3 == 0).astype(np.int64)
    chance = 1 / (1 + np.exp(-(rng.normal(size=cases) + targets)))
    return targets, np.stack([1 - chance, chance], axis=1)


def test_influences_on_the_auc_are_delongs_components_and_their_squares_his_variance() -> None:
    targets, probabilities = binary(30)
    influences = case_influences.classification(targets, probabilities)["auc"]
    found = influences_of_units(influences, np.arange(30), 32)
    wins = probabilities[targets == 1, 1][:, None] > probabilities[targets == 0, 1][None, :]
    expected = np.zeros(32)
    expected[np.flatnonzero(targets == 1)] = (wins.mean(axis=1) - wins.mean()) / 10
    expected[np.flatnonzero(targets == 0)] = (wins.mean(axis=0) - wins.mean()) / 20
    np.testing.assert_allclose(found, expected, atol=1e-15)
    spread = variance_of_mean(found[None, :30], np.ones((1, 30), dtype=np.bool_), targets.astype(np.str_))
    _, covariance = delong_covariance(targets == 1, probabilities.T[[1, 1]])
    assert spread.variance == pytest.approx(covariance[0, 0], rel=1e-12)
    assert 9 < spread.degrees < 29


def test_cases_of_a_unit_move_together() -> None:
    influences = np.array([1.0, 2.0, 4.0, 8.0])
    assert influences_of_units(influences, np.array([2, 0, 2, 0]), 4).tolist() == [10, 0, 5, 0]
    assert np.isnan(influences_of_units(np.full(2, np.nan), np.array([0, 2]), 3)).tolist() == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 4])
def test_the_variance_of_a_mean_over_folds_is_that_of_a_mean(repeats: int) -> None:
    """Means of small folds, 400 times: on average the estimated variance is the true one, 1 / 24."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        values = rng.normal(size=24)
        tested, influence = [], []
        for _ in range(repeats):
            for fold in rng.permutation(24).reshape(6, 4):
                tested.append(np.isin(np.arange(24), fold))
                influence.append(np.where(tested[-1], (values - values[fold].mean()) / 4, 0))
        found.append(variance_of_mean(np.array(influence), np.array(tested), np.zeros(24, dtype=np.str_)).variance)
    assert np.mean(found) * 24 == pytest.approx(1, abs=float(5 * np.std(found) / 20 * 24))
    assert np.mean(found) * 24 == pytest.approx(1, abs=0.06)


def test_degrees_of_freedom_are_those_of_welchs_test() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=8), 3 * rng.normal(size=12)
    influence = np.concatenate([(one - one.mean()) / 8, -(other - other.mean()) / 12])
    strata = np.array(["a"] * 8 + ["b"] * 12)
    spread = variance_of_mean(influence[None], np.ones((1, 20), dtype=np.bool_), strata)
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert spread.degrees == pytest.approx(welch.df)
    assert (one.mean() - other.mean()) / math.sqrt(spread.variance) == pytest.approx(welch.statistic)


def test_folds_with_one_case_of_a_class_tell_no_variance() -> None:
    tested = np.eye(3, dtype=np.bool_)
    assert math.isnan(variance_of_mean(np.zeros((3, 3)), tested, np.array(["a"] * 3)).variance)
