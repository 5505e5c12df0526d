from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.split_kinds.fold_column import from_column
from slpd_toolkit.mil.cohort.splits import Split
from tests.mil.planted import make_cohort


@st.composite
def cohorts(draw: st.DrawFn, folds: int = 4) -> Cohort:
    """Draw cohorts of two or three classes with `folds` to 12 patients each, and one to four slides per patient."""
    counts = draw(st.lists(st.integers(folds, 12), min_size=2, max_size=3))
    labels = [name for name, count in zip("abc", counts, strict=False) for _ in range(count)]
    slides = draw(st.lists(st.integers(1, 4), min_size=len(labels), max_size=len(labels)))
    return make_cohort(slides, draw(st.permutations(labels)))


def patients_of(cohort: Cohort, slides: tuple[str, ...]) -> set[str]:
    return set(cohort.patients[np.isin(cohort.slides, slides)].tolist())


def class_counts(cohort: Cohort, slides: tuple[str, ...]) -> Counter[str]:
    """Count patients by class."""
    assert cohort.strata is not None
    inside = np.isin(cohort.slides, slides)
    return Counter(dict(zip(cohort.patients[inside].tolist(), cohort.strata[inside].tolist(), strict=True)).values())


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(cohort=cohorts(), seed=st.integers(0, 100))
def test_a_fold_keeps_patients_whole_and_classes_balanced_and_the_folds_cover_the_cohort(
    cohort: Cohort, seed: int
) -> None:
    splits = cross_validation(cohort, folds=4, repeats=2, seed=seed)
    assert [(split.repeat, split.fold) for split in splits] == [(r, f) for r in (0, 1) for f in range(4)]
    for split in splits:
        assert sorted(split.train + split.val + split.test) == sorted(cohort.slides.tolist())
        train, val, test = (patients_of(cohort, part) for part in split.parts.values())
        assert not train & val
        assert not train & test
        assert not val & test
    for repeat in (splits[:4], splits[4:]):
        for name in ("val", "test"):
            assert sorted(slide for split in repeat for slide in split.parts[name]) == sorted(cohort.slides.tolist())
            in_fold = [class_counts(cohort, split.parts[name]) for split in repeat]
            for label in np.unique(cohort.strata):  # type: ignore[arg-type]  # cohorts() always sets strata
                counts = [fold[label] for fold in in_fold]
                assert max(counts) - min(counts) <= 1
                assert min(counts) >= 1


@settings(max_examples=20, deadline=None)
@given(cohort=cohorts(), data=st.data())
def test_the_order_of_the_manifest_has_no_influence(cohort: Cohort, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(cohort.slides)))))
    assert cohort.strata is not None
    shuffled = Cohort(cohort.slides[order], cohort.patients[order], cohort.strata[order])
    assert cross_validation(cohort, folds=4, seed=3) == cross_validation(shuffled, folds=4, seed=3)


def test_the_seed_and_the_repeat_decide_the_division() -> None:
    cohort = make_cohort([1] * 40, ["a", "b"] * 20)
    first = cross_validation(cohort, folds=4, repeats=2, seed=0)
    assert first == cross_validation(cohort, folds=4, repeats=2, seed=0)
    assert first[:4] == cross_validation(cohort, folds=4, repeats=1, seed=0)
    assert {split.test for split in first[:4]}.isdisjoint({split.test for split in first[4:]})
    assert first[0].test != cross_validation(cohort, folds=4, seed=1)[0].test


def test_validation_is_the_next_test_fold() -> None:
    splits = cross_validation(make_cohort([1] * 20, ["a", "b"] * 10), folds=5)
    assert [split.val for split in splits] == [splits[(i + 1) % 5].test for i in range(5)]


def test_a_cohort_without_labels_is_split_too() -> None:
    names = np.array([f"s{i}" for i in range(10)])
    assert [len(split.test) for split in cross_validation(Cohort(names, names), folds=5)] == [2] * 5


def site_cohort() -> Cohort:
    """24 sites of one class each with 1 to 8 patients, so that only stratification balances the classes over folds."""
    size_of_site = [1 + site % 8 for site in range(24)]
    labels = [("a", "b")[site // 12] for site, size in enumerate(size_of_site) for _ in range(size)]
    sites = [f"site{site:02d}" for site, size in enumerate(size_of_site) for _ in range(size)]
    return make_cohort([1] * len(labels), labels, sites)


@pytest.mark.parametrize("seed", range(5))
def test_by_site_keeps_sites_whole_and_still_balances_classes(seed: int) -> None:
    cohort = site_cohort()
    assert cohort.sites is not None
    for split in cross_validation(cohort, folds=3, seed=seed, by_site=True):
        sites = [set(cohort.sites[np.isin(cohort.slides, part)].tolist()) for part in split.parts.values()]
        assert not sites[0] & sites[1]
        assert not sites[0] & sites[2]
        assert not sites[1] & sites[2]
        counts = class_counts(cohort, split.test)
        whole = class_counts(cohort, tuple(cohort.slides.tolist()))
        assert all(abs(counts[label] - whole[label] / 3) <= 2 for label in "ab")


def test_by_site_shuffles_sites_of_equal_size() -> None:
    cohort = site_cohort()
    tests = {cross_validation(cohort, folds=3, seed=seed, by_site=True)[0].test for seed in range(5)}
    assert len(tests) == 5


def test_repeats_that_sites_force_to_be_equal_are_refused() -> None:
    cohort = make_cohort([1] * 12, ["a", "b"] * 6, [f"s{i // 4}" for i in range(12)])
    with pytest.raises(UsageError, match="same folds as an earlier one"):
        cross_validation(cohort, folds=3, repeats=2, by_site=True)


def test_a_class_in_fewer_sites_than_folds_is_refused() -> None:
    cohort = make_cohort(
        [1] * 8, ["a", "a", "b", "b", "b", "a", "b", "a"], ["s0", "s1", "s2", "s2", "s2", "s2", "s3", "s3"]
    )
    with pytest.raises(UsageError, match="3 folds require at least 3 sites per class; b has 2"):
        cross_validation(cohort, folds=3, by_site=True)


def test_a_fold_that_sites_leave_without_a_class_is_refused() -> None:
    patients_of_site = {"s0": "aaaaaaaa", "s1": "aaaaabbbb", "s2": "bbbb", "s3": "aaaaaabbbbbb"}
    labels = [label for members in patients_of_site.values() for label in members]
    sites = [site for site, members in patients_of_site.items() for _ in members]
    with pytest.raises(UsageError, match=r"Fold \d has no patients of [ab], because its sites have none"):
        cross_validation(make_cohort([1] * len(labels), labels, sites), folds=3, by_site=True)


def test_by_site_needs_sites() -> None:
    with pytest.raises(UsageError, match="requires a site"):
        cross_validation(make_cohort([1] * 12, ["a", "b"] * 6), folds=3, by_site=True)


def test_a_class_with_fewer_patients_than_folds_is_refused_however_many_slides_it_has() -> None:
    cohort = make_cohort([1] * 10 + [9, 9], ["IDC"] * 10 + ["ILC"] * 2)
    with pytest.raises(UsageError, match="5 folds require at least 5 patients per class; ILC has 2"):
        cross_validation(cohort, folds=5)


@pytest.mark.parametrize(("folds", "repeats"), [(2, 1), (0, 1), (3, 0)])
def test_two_folds_or_no_repeat_are_refused(folds: int, repeats: int) -> None:
    with pytest.raises(UsageError, match=f"Got {folds} folds and {repeats} repeats"):
        cross_validation(make_cohort([1] * 12, ["a", "b"] * 6), folds=folds, repeats=repeats)


def test_folds_of_a_column_are_sorted_as_numbers_and_rotate() -> None:
    cohort = make_cohort([1] * 6, ["a", "b"] * 3)
    splits = from_column(cohort, np.array(["10", "2", "9", "10", "2", "9"]))
    assert [split.test for split in splits] == [("p001-0", "p004-0"), ("p002-0", "p005-0"), ("p000-0", "p003-0")]
    assert [split.val for split in splits] == [splits[1].test, splits[2].test, splits[0].test]
    assert splits[0].train == splits[2].test


def test_a_column_of_parts_is_taken_as_it_is() -> None:
    cohort = make_cohort([2, 1, 1], ["a", "b", "a"])
    assert from_column(cohort, np.array(["train", "test", "val", "test"])) == [
        Split(0, train=("p000-0",), val=("p001-0",), test=("p000-1", "p002-0"))
    ]


def test_without_val_a_tenth_of_the_training_patients_of_each_class_is_carved_out() -> None:
    cohort = make_cohort([2] * 50, ["a"] * 35 + ["b"] * 15)
    column = np.array(["train"] * 80 + ["test"] * 20)
    (split,) = from_column(cohort, column, seed=4)
    assert class_counts(cohort, split.val) == {"a": 3, "b": 1}
    assert not patients_of(cohort, split.train) & patients_of(cohort, split.val)
    assert len(split.val) == 8
    assert sorted(split.train + split.val) == sorted(cohort.slides[:80].tolist())
    assert from_column(cohort, column, seed=5)[0].val != split.val


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["train", " ", "test"], "1 slide has no fold: p001-0"),
        (["1", "2", "2"], "fold column contains 1, 2"),
        (["train", "train", "val"], "split column contains only train, val"),
    ],
)
def test_a_column_that_gives_no_split_is_refused(column: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_column(make_cohort([1] * 3, ["a", "b", "a"]), np.array(column))


def test_a_split_can_be_restricted_to_the_slides_that_are_there() -> None:
    split = Split(1, train=("a", "b"), val=("c",), test=("d", "e"), repeat=2)
    assert split.restricted_to(["e", "b", "c"]) == Split(1, ("b",), ("c",), ("e",), 2)
