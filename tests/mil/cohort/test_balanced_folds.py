"""Folds that balance several columns of classes."""

from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.balanced_folds import balanced_folds, count_cells
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation


@pytest.mark.parametrize("seed", range(3))
def test_every_class_of_every_column_is_spread_evenly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = np.stack(
        [rng.choice(["a", "b", ""], 150, p=[0.5, 0.4, 0.1]), rng.choice(["x", "y"], 150, p=[0.9, 0.1])], axis=1
    )
    counts, found = count_cells(columns, np.arange(150))
    assert found == [(0, "a"), (0, "b"), (1, "x"), (1, "y")]
    folds = balanced_folds(counts, np.ones(150, np.int64), 5, rng)
    np.testing.assert_array_equal(np.bincount(folds), [30] * 5)
    of_folds = np.stack([counts[folds == fold].sum(axis=0) for fold in range(5)])
    assert np.ptp(of_folds, axis=0).max() <= 3
    assert np.ptp(of_folds[:, 3]) <= 1  # the rarest class comes first


def test_patients_stay_together_and_a_label_of_one_slide_is_that_of_the_patient() -> None:
    patients = np.repeat([f"p{number:02}" for number in range(24)], 2)
    column = np.where(np.arange(48) % 2 == 0, "", np.repeat(["a", "b"], 24))  # only second slides have one
    cohort = Cohort(np.array([f"s{n:02}" for n in range(48)]), patients, balance=column[:, None])
    for split in cross_validation(cohort, folds=4):
        inside = np.isin(cohort.slides, split.test)
        assert inside[::2].tolist() == inside[1::2].tolist()
        assert sorted({column[int(slide[1:])] for slide in split.test} - {""}) == ["a", "b"]


def test_too_few_patients_of_a_class_are_named() -> None:
    column = np.array(["er=pos"] * 3 + ["er=neg"] * 27)
    cohort = Cohort(np.arange(30).astype(np.str_), np.arange(30).astype(np.str_), balance=column[:, None])
    with pytest.raises(UsageError, match="5 folds require at least 5 patients per class; er=pos has 3"):
        cross_validation(cohort, folds=5)
