from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.intervals import draw_patients, mean_over_folds, percentile_interval
from slpd_toolkit.mil.tasks import metrics, weighted_metrics


def test_spread_over_folds_leaves_out_what_is_undefined() -> None:
    assert mean_and_sd(np.array([0.5, np.nan, 0.7, 0.9])) == pytest.approx((0.7, 0.2))
    assert mean_and_sd(np.array([0.5])) == pytest.approx((0.5, math.nan), nan_ok=True)
    assert mean_and_sd(np.array([np.nan])) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_a_bootstrap_sample_draws_each_stratum_as_often_as_it_is_large() -> None:
    strata = np.array(["a"] * 7 + ["b"] * 3)[np.random.default_rng(0).permutation(10)]
    counts = draw_patients(strata, 4000, np.random.default_rng(1))
    assert counts.shape == (4000, 10)
    assert (counts[:, strata == "a"].sum(axis=1) == 7).all()
    assert (counts[:, strata == "b"].sum(axis=1) == 3).all()
    # Each count is binomial(n, 1/n): mean 1, variance 1 - 1/n; within five standard errors.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=5 / math.sqrt(4000))
    np.testing.assert_allclose(counts[:, strata == "b"].var(axis=0), 2 / 3, rtol=0.15)
    np.testing.assert_array_equal(counts, draw_patients(strata, 4000, np.random.default_rng(1)))
    assert (counts != draw_patients(strata, 4000, np.random.default_rng(2))).any()


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=80)
    counts = draw_patients(np.zeros(80, dtype=np.str_), 20_000, np.random.default_rng(1))
    ours = percentile_interval(counts @ values / 80, level=0.9)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.replicates == 20_000


def test_undefined_replicates_are_left_out_and_counted() -> None:
    values = np.append(np.linspace(0, 1, 41), np.nan)
    interval = percentile_interval(values)
    assert (interval.low, interval.high, interval.replicates) == pytest.approx((0.025, 0.975, 41))
    nothing = percentile_interval(np.array([np.nan]))
    assert math.isnan(nothing.low)
    assert nothing.replicates == 0


def test_slides_of_one_patient_stand_and_fall_together() -> None:
    """Four copies of each slide are no more evidence: drawn as patients they leave the interval as it is."""
    rng = np.random.default_rng(0)
    right = (rng.random(60) < 0.7).astype(np.float64)
    counts = draw_patients(np.zeros(60, dtype=np.str_), 2000, rng)
    once = percentile_interval(counts @ right / 60)
    patient_of_row = np.repeat(np.arange(60), 4)

    def accuracy(rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": weights @ right[patient_of_row[rows]] / weights.sum(axis=1)}

    copies = mean_over_folds(accuracy, np.zeros(240, dtype=np.int64), patient_of_row, counts)["accuracy"]
    assert percentile_interval(copies) == once
    as_slides = draw_patients(np.zeros(240, dtype=np.str_), 2000, rng) @ right[patient_of_row] / 240
    alone = percentile_interval(as_slides)
    assert alone.high - alone.low < 0.7 * (once.high - once.low)


def test_the_mean_over_folds_is_a_loop_over_folds_and_copies() -> None:
    rng = np.random.default_rng(0)
    rows = 60
    targets, raw = rng.integers(0, 2, rows), rng.random((rows, 2))
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    fold_of_row, patient_of_row = rng.permutation(np.arange(rows) % 4), rng.integers(0, 25, rows)
    counts = draw_patients(np.zeros(25, dtype=np.str_), 5, rng)

    def metrics_of(chosen: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        return weighted_metrics.classification(targets[chosen], probabilities[chosen], weights)

    found = mean_over_folds(metrics_of, fold_of_row, patient_of_row, counts)
    for replicate in range(5):
        per_fold = []
        for fold in range(4):
            inside = np.flatnonzero(fold_of_row == fold)
            copies = np.repeat(inside, counts[replicate, patient_of_row[inside]].astype(int))
            per_fold.append(metrics.classification(targets[copies], probabilities[copies]))
        for name in per_fold[0]:
            assert found[name][replicate] == pytest.approx(np.nanmean([values[name] for values in per_fold]))


def test_a_fold_without_a_class_is_left_out_of_the_mean_and_undefined_everywhere_is_nan() -> None:
    def metrics_of(rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": np.array([float(rows[0]), np.nan if rows[0] else 4.0, np.nan])}

    found = mean_over_folds(metrics_of, np.array([0, 1]), np.array([0, 1]), np.ones((3, 2)))["x"]
    np.testing.assert_array_equal(found, [0.5, 4.0, np.nan])
