from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.division import Division, divide_units
from slpd_toolkit.mil.statistics.intervals import (
    FEWEST_SITES,
    Evidence,
    interval_of_difference,
    interval_of_mean,
    uncertainty,
)
from slpd_toolkit.mil.statistics.shared_training import fold_variance_factor, largest_inflation
from tests.mil.planted import make_cohort


def division(patients: int = 60, folds: int = 5, repeats: int = 1) -> Division:
    cohort = make_cohort([1] * patients, ["a", "b"] * (patients // 2))
    return divide_units(cohort, cross_validation(cohort, folds=folds, repeats=repeats))


def sites(count: int, folds: int = 3, repeats: int = 1) -> Division:
    cohort = make_cohort([1] * (4 * count), ["a", "b"] * (2 * count), [f"{n // 4:02}" for n in range(4 * count)])
    return divide_units(cohort, cross_validation(cohort, folds=folds, repeats=repeats, by_site=True), by_site=True)


def evidence(of: Division, values: np.ndarray, influence: float = 0.01, unexplained: float = 1.0) -> Evidence:
    signs = np.where(np.arange(of.tested.shape[1]) % 4 < 2, 1, -1)
    return Evidence(values, influence * signs * of.tested, signs * of.tested * 1.0, unexplained)


def test_spread_over_folds_leaves_out_what_is_undefined() -> None:
    assert mean_and_sd(np.array([0.5, np.nan, 0.7, 0.9])) == pytest.approx((0.7, 0.2))
    assert mean_and_sd(np.array([0.5])) == pytest.approx((0.5, math.nan), nan_ok=True)
    assert mean_and_sd(np.array([np.nan])) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_without_repeats_the_bound_of_what_folds_share_is_used_and_said() -> None:
    of = division()
    full, half = (uncertainty(evidence(of, np.full(5, 0.7), unexplained=share), of) for share in (1.0, 0.5))
    assert full.inflation == pytest.approx(largest_inflation(of)) == pytest.approx(2 / 3)
    assert half.inflation == pytest.approx(1 / 3)
    assert full.conservative
    assert full.variance / half.variance == pytest.approx((1 + 2 / 3) / (1 + 1 / 3))
    assert interval_of_mean(evidence(of, np.full(5, 0.7)), of).conservative


def test_with_repeats_it_is_estimated_and_shrunk_towards_the_bound() -> None:
    of = division(repeats=5)
    found = uncertainty(evidence(of, np.full(25, 0.7)), of)
    # Contributions do not depend on who was trained on: the estimate is 0.
    assert found.inflation == pytest.approx(largest_inflation(of) / 3)
    assert not found.conservative
    sound = interval_of_mean(evidence(of, np.full(25, 0.7)), of)
    curved = interval_of_mean(dataclasses.replace(evidence(of, np.full(25, 0.7)), linear=False), of)
    assert (sound.conservative, curved.conservative) == (False, True)
    assert curved == dataclasses.replace(sound, conservative=True)
    difference = evidence(of, np.full(25, 0.1))
    assert not interval_of_difference(difference, of).conservative
    assert interval_of_difference(dataclasses.replace(difference, linear=False), of).conservative


def test_a_single_split_takes_its_heads_as_given() -> None:
    of = division()
    one = dataclasses.replace(of, trained=of.trained[:1], tested=of.tested[:1], repeats=of.repeats[:1])
    found = uncertainty(evidence(one, np.array([0.7])), one)
    assert (found.inflation, found.conservative) == (0, False)
    assert not interval_of_mean(dataclasses.replace(evidence(one, np.array([0.7])), linear=False), one).conservative


@pytest.mark.parametrize("mean", [0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("scale", ["share", "agreement"])
def test_intervals_hold_their_mean_and_stay_within_the_scale(mean: float, scale: str) -> None:
    of = division()
    folds = evidence(of, np.full(5, mean), influence=0.04 * mean * (1 - mean))
    found = interval_of_mean(folds, of, scale=scale)  # type: ignore[arg-type]
    assert 0 < found.low < mean < found.high < 1
    assert found.units == 60


def test_an_agreement_may_be_negative_and_a_ratio_above_1() -> None:
    of = division()
    assert -1 < interval_of_mean(evidence(of, np.full(5, -0.9)), of, scale="agreement").low < -0.9
    ratio = interval_of_mean(evidence(of, np.full(5, 1.5)), of, scale="ratio")
    assert ratio.low < 1.5 < ratio.high
    assert ratio.low * ratio.high == pytest.approx(1.5**2)


def test_at_an_end_of_the_scale_the_interval_has_a_width() -> None:
    """All 60 patients ranked right: the exact bound for 60 of 60 successes."""
    of = division()
    perfect = interval_of_mean(evidence(of, np.ones(5), influence=0), of)
    exact = stats.binomtest(60, 60).proportion_ci(0.95, method="exact")
    assert (perfect.low, perfect.high) == pytest.approx((exact.low, 1))
    wrong = interval_of_mean(evidence(of, np.zeros(5), influence=0), of)
    assert (wrong.low, wrong.high) == pytest.approx((0, 1 - exact.low))
    almost = interval_of_mean(evidence(of, np.full(5, 0.999), influence=0), of)
    assert 0.97 < almost.low < 0.99
    assert 0.999 < almost.high < 1


def test_what_is_explained_ends_at_1_and_may_be_negative() -> None:
    of = division(repeats=5)
    for mean in (-0.5, 0.2, 0.95):
        found = evidence(of, np.full(25, mean))
        explained = interval_of_mean(found, of, scale="explained")
        errors = interval_of_mean(dataclasses.replace(found, values=1 - found.values), of, scale="ratio")
        assert (explained.low, explained.high) == pytest.approx((1 - errors.high, 1 - errors.low))
        assert explained.low < mean < explained.high < 1


def test_the_interval_of_a_difference_is_a_t_interval() -> None:
    of = division(repeats=5)
    found = uncertainty(evidence(of, np.full(25, 0.1)), of)
    interval = interval_of_difference(evidence(of, np.full(25, 0.1)), of)
    half = stats.t.ppf(0.975, found.degrees) * math.sqrt(found.variance)
    assert (interval.low, interval.high) == pytest.approx((0.1 - half, 0.1 + half))


def test_where_sites_were_split_the_variance_is_that_of_the_folds() -> None:
    of = sites(9)
    values = np.array([0.6, 0.7, 0.9])
    found = uncertainty(evidence(of, values), of)
    assert found.variance == pytest.approx(np.var(values, ddof=1) / 3 * fold_variance_factor(of))
    assert found.degrees == 2
    assert interval_of_mean(evidence(of, values), of).units == 9


@pytest.mark.parametrize(
    ("folds", "repeats", "linear", "conservative"),
    [(5, 1, True, False), (3, 1, True, True), (5, 2, True, True), (5, 1, False, True)],
)
def test_over_sites_what_simulations_found_too_wide_is_said(
    folds: int, repeats: int, linear: bool, conservative: bool
) -> None:
    of = sites(12, folds, repeats)
    values = 0.6 + 0.02 * np.arange(folds * repeats)
    found = dataclasses.replace(evidence(of, values), linear=linear)
    assert interval_of_mean(found, of).conservative == conservative
    assert interval_of_difference(found, of).conservative


def test_fewer_than_six_sites_have_no_interval_and_the_reason_is_said() -> None:
    assert FEWEST_SITES == 6
    for count, there in ((5, False), (6, True)):
        of = sites(count)
        found = interval_of_mean(evidence(of, np.array([0.6, 0.7, 0.9])), of)
        assert math.isnan(found.low) != there
        assert ("5 sites are too few" in found.reason) != there
        assert math.isnan(interval_of_difference(evidence(of, np.array([0.1, 0.0, 0.2])), of).high) != there


def test_undefined_folds_are_left_out_and_undefined_everywhere_has_no_interval() -> None:
    of = division()
    some = evidence(of, np.array([0.7, np.nan, 0.7, 0.7, 0.7]))
    some.influence[1] = np.nan
    assert math.isfinite(interval_of_mean(some, of).low)
    nothing = interval_of_mean(evidence(of, np.full(5, np.nan)), of)
    assert math.isnan(nothing.low)
    assert "undefined in all folds" in nothing.reason


def test_one_patient_of_a_class_per_fold_tells_no_variance() -> None:
    cohort = make_cohort([1] * 24, ["a"] * 3 + ["b"] * 21)
    of = divide_units(cohort, cross_validation(cohort, folds=3))
    assert "two patients of each class" in interval_of_mean(evidence(of, np.full(3, 0.7)), of).reason
