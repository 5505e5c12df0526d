from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.statistics.division import divide_units
from tests.mil.planted import make_cohort


def test_units_are_patients_and_splits_say_who_is_trained_on() -> None:
    cohort = make_cohort([1, 2, 3] * 4, ["a", "b"] * 6)
    splits = cross_validation(cohort, folds=3, repeats=2)
    division = divide_units(cohort, splits)
    assert division.strata.tolist() == ["a", "b"] * 6
    assert division.repeats.tolist() == [0, 0, 0, 1, 1, 1]
    assert division.folds == 3
    for number, split in enumerate(splits):
        for part, chosen in ((split.train, division.trained[number]), (split.test, division.tested[number])):
            assert {f"p{unit:03d}" for unit in np.flatnonzero(chosen)} == {slide[:4] for slide in part}
    assert division.unit_of_row.tolist() == [int(patient[1:]) for patient in cohort.patients]
    assert division.test_train_ratio == 1.0


def test_units_are_sites_where_sites_were_split() -> None:
    cohort = make_cohort([2] * 12, ["a", "b"] * 6, [f"s{number // 2}" for number in range(12)])
    division = divide_units(cohort, cross_validation(cohort, folds=3, by_site=True), by_site=True)
    assert division.by_site
    assert division.tested.shape == (3, 6)
    assert division.tested.sum(axis=0).tolist() == [1] * 6
    assert set(division.strata.tolist()) == {""}
    assert division.unit_of_row.tolist() == [number // 4 for number in range(24)]


def test_the_share_trained_is_counted_over_the_splits_that_test_a_unit() -> None:
    cohort = make_cohort([1] * 20, ["a", "b"] * 10)
    division = divide_units(cohort, cross_validation(cohort, folds=5, repeats=3))
    tested, trained = division.shares_trained()
    shares = tested.T @ trained
    for i in range(20):
        tests = np.flatnonzero(division.tested[:, i])
        assert len(tests) == 3
        np.testing.assert_allclose(shares[i], division.trained[tests].mean(axis=0))
    assert (np.diag(shares) == 0).all()
