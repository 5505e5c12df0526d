from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.cohort.training_subsets import keep_fraction, keep_shots
from tests.mil.planted import make_cohort

if TYPE_CHECKING:
    from slpd_toolkit.mil.cohort.patients import Cohort

COHORT = make_cohort([1, 2, 3] * 20, ["a"] * 40 + ["b"] * 20)
SPLITS = cross_validation(COHORT, folds=5, repeats=2, seed=1)


def training_patients(split: Split, cohort: Cohort = COHORT) -> dict[str, str]:
    assert cohort.strata is not None
    inside = np.isin(cohort.slides, split.train)
    return dict(zip(cohort.patients[inside].tolist(), cohort.strata[inside].tolist(), strict=True))


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.25, {"a": 6, "b": 3}), (0.01, {"a": 1, "b": 1}), (1.0, {"a": 24, "b": 12})]
)
def test_a_fraction_keeps_patients_of_each_class(fraction: float, expected: dict[str, int]) -> None:
    for split in keep_fraction(SPLITS, COHORT, fraction):
        assert Counter(training_patients(split).values()) == expected


def test_kept_patients_keep_all_their_training_slides_and_other_parts_stay_whole() -> None:
    for before, after in zip(SPLITS, keep_shots(SPLITS, COHORT, 2), strict=True):
        assert (after.val, after.test, after.fold, after.repeat) == (
            before.val,
            before.test,
            before.fold,
            before.repeat,
        )
        kept = COHORT.slides[np.isin(COHORT.patients, list(training_patients(after)))]
        assert sorted(after.train) == sorted(kept.tolist())
        assert set(after.train) <= set(before.train)


def test_a_slide_of_a_kept_patient_in_another_part_does_not_enter_training() -> None:
    leaky = Split(0, train=("p000-0", "p001-0", "p040-0"), val=("p001-1",), test=("p041-0",))
    (kept,) = keep_fraction([leaky], COHORT, 1.0)
    assert kept.train == leaky.train


def test_shots_count_patients_and_are_nested_and_seeded() -> None:
    small, large = keep_shots(SPLITS, COHORT, 3), keep_shots(SPLITS, COHORT, 6)
    for few, more in zip(small, large, strict=True):
        assert Counter(training_patients(few).values()) == {"a": 3, "b": 3}
        assert training_patients(few).items() <= training_patients(more).items()
    assert small == keep_shots(SPLITS, COHORT, 3)
    assert [split.train for split in small] != [split.train for split in keep_shots(SPLITS, COHORT, 3, seed=1)]


def test_fractions_are_nested() -> None:
    for few, more in zip(keep_fraction(SPLITS, COHORT, 0.25), keep_fraction(SPLITS, COHORT, 0.5), strict=True):
        assert set(few.train) < set(more.train)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match=f"Got training fraction {fraction}"):
        keep_fraction(SPLITS, COHORT, fraction)


def test_more_shots_than_patients_are_refused() -> None:
    with pytest.raises(UsageError, match="13 shots, but a class has only 12 training patients"):
        keep_shots(SPLITS, COHORT, 13)
    with pytest.raises(UsageError, match="Got 0 shots"):
        keep_shots(SPLITS, COHORT, 0)
