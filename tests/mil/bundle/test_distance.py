from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from slpd_toolkit.mil.bundle.distance import Neighbourhood, TrainingSet, limit_of


@pytest.mark.parametrize("shape", [(200, 5), (12, 40)])
def test_equals_ledoit_and_wolf_on_standardized_features(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    means = (rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) * 7 + 100).astype(np.float32)
    new = (rng.normal(size=(4, shape[1])) * 30 + 100).astype(np.float32)
    mean, sd = means.astype(float).mean(axis=0), means.astype(float).std(axis=0)
    covariance, weight = ledoit_wolf((means - mean) / sd)
    assert 0 < weight < 1
    away = (new - mean) / sd
    expected = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away))
    near = Neighbourhood.of(means)
    np.testing.assert_allclose(near.distances(new), expected, rtol=1e-4)
    np.testing.assert_array_equal(near.distances(new)[2], near.distances(new[2:3])[0])


def test_a_feature_that_never_varied_and_a_single_slide_are_no_trouble() -> None:
    means = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    means[:, 1] = 4
    near = Neighbourhood.of(means)
    other = means[:1] + np.array([0, 50, 0], np.float32)
    assert near.distances(other)[0] > near.distances(means).max()
    assert np.isfinite(Neighbourhood.of(means[:1]).distances(other)).all()


def test_the_limit_is_the_conformal_quantile() -> None:
    assert limit_of(np.arange(1.0, 20)) == 19  # ceil(20 * .95) = 19
    assert limit_of(np.arange(1.0, 101)) == 96
    assert limit_of(np.arange(1.0, 19)) == float("inf")


@pytest.mark.slow
def test_the_false_alarm_rate_is_kept_and_far_slides_are_marked() -> None:
    """Over many cohorts: new slides of the same kind are marked in about 5 %, slides of another kind always."""
    alarms, stated, far = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mixing = rng.normal(size=(8, 8))
        means, new = ((rng.normal(size=(count, 8)) @ mixing).astype(np.float32) for count in (60, 200))
        parts = np.array_split(rng.permutation(60), 5)
        training = TrainingSet.of(means, parts)
        alarms.append((training.neighbourhood.distances(new) > training.limit).mean())
        stated.append(training.false_alarm_rate)
        far.append((training.neighbourhood.distances(new + 20) > training.limit).mean())
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.02)
    assert np.mean(stated) == pytest.approx(0.05, abs=0.02)
    assert np.mean(far) == 1


def test_stored_and_read_again_it_is_the_same() -> None:
    means = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    training = TrainingSet.of(means, [np.arange(15), np.arange(15, 30)])
    again = TrainingSet.from_arrays(training.arrays(), training.false_alarm_rate)
    np.testing.assert_array_equal(again.neighbourhood.distances(means + 1), training.neighbourhood.distances(means + 1))
    assert (again.limit, again.false_alarm_rate) == (training.limit, training.false_alarm_rate)
    with pytest.raises(ValueError, match="do not match"):
        TrainingSet.from_arrays(training.arrays() | {"scale": np.ones(3)}, 0.0)
