"""Holding out patients, sites, and what a column marks."""

from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.holdout import held_out_by_column, hold_out_patients, hold_out_sites, most_folds
from slpd_toolkit.mil.cohort.patients import Cohort


def cohort(patients: int, *, slides: int = 2, sites: int = 0, seed: int = 0) -> Cohort:
    """Patients of two classes in turn, with equally many slides, in random order."""
    order = np.random.default_rng(seed).permutation(patients * slides)
    of = order // slides
    names = np.array([f"P{number:03}" for number in of])
    ids = np.array([f"P{number // slides:03}-{number % slides}" for number in order])
    where = np.array([f"s{number // 2 % sites}" for number in of]) if sites else None
    return Cohort(ids, names, np.array(["a", "b"])[of % 2], where)


@pytest.mark.parametrize(
    ("patients", "fraction", "per_class"), [(40, 0.2, 4), (10, 0.1, 1), (8, 0.9, 1), (40, 0.5, 10)]
)
def test_a_fraction_of_each_class_is_held_out_and_no_patient_is_on_both_sides(
    patients: int, fraction: float, per_class: int
) -> None:
    found = cohort(patients)
    held = hold_out_patients(found, fraction, 0)
    assert not set(found.patients[held]) & set(found.patients[~held])
    assert found.strata is not None
    for label in "ab":
        assert len(set(found.patients[held & (found.strata == label)])) == per_class
        assert len(set(found.patients[~held & (found.strata == label)])) >= 3


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_slides() -> None:
    first, shuffled = cohort(40), cohort(40, seed=5)
    chosen = {seed: frozenset(first.patients[hold_out_patients(first, 0.2, seed)]) for seed in range(5)}
    assert frozenset(shuffled.patients[hold_out_patients(shuffled, 0.2, 3)]) == chosen[3]
    assert len(set(chosen.values())) == 5


def test_too_few_patients_of_a_class_are_refused() -> None:
    with pytest.raises(UsageError, match=r"at least 4 patients per class, .* a has 3"):
        hold_out_patients(cohort(6), 0.2, 0)


def test_whole_sites_are_held_out_with_about_the_fraction_of_patients() -> None:
    found = cohort(60, sites=10)
    held = hold_out_sites(found, 0.2, 0)
    assert found.sites is not None
    assert found.strata is not None
    assert not set(found.sites[held]) & set(found.sites[~held])
    assert set(found.strata[held]) == {"a", "b"}
    assert len(set(found.patients[held])) == 12
    assert most_folds(found, by_site=True) == 10
    assert most_folds(found, by_site=False) == 30


def test_sites_that_each_have_one_class_cannot_always_be_held_out() -> None:
    names = np.array([f"P{n}" for n in range(8)])
    one = Cohort(names, names, np.array(list("aaaabbbb")), np.array([f"s{n // 2}" for n in range(8)]))
    with pytest.raises(UsageError, match="at least 4 sites per class"):
        hold_out_sites(one, 0.2, 0)


def test_a_column_marks_held_out_patients_and_must_not_divide_one() -> None:
    found = cohort(8)
    marks = np.where(found.patients == "P003", "test", "train")
    assert set(found.patients[held_out_by_column(found, marks, ("test",), "split")]) == {"P003"}
    with pytest.raises(UsageError, match=r"no slide has the value hold; found test, train"):
        held_out_by_column(found, marks, ("hold",), "split")
    marks[np.flatnonzero(found.patients == "P004")[0]] = "test"
    with pytest.raises(UsageError, match="1 patient has slides on both sides: P004"):
        held_out_by_column(found, marks, ("test",), "split")
