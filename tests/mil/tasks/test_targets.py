from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.targets import require_two_classes

SLIDES = np.array(["s0", "s1", "s2", "s3"])


def test_classes_are_sorted_as_numbers_where_they_are_numbers() -> None:
    task = Classification.from_labels(SLIDES, np.array(["10", " 9", "x", "9"]))
    assert task.classes == ("9", "10", "x")
    assert task.targets.tolist() == [1, 0, 2, 0]


def test_the_order_of_classes_can_be_given() -> None:
    task = Ordinal.from_labels(SLIDES, np.array(["low", "high", "mid", "low"]), classes=["low", "mid", "high"])
    assert task.targets.tolist() == [0, 2, 1, 0]
    assert isinstance(task, Ordinal)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["a", "", "b", " "], [], r"2 slides have no valid label: s1 \(''\), s3 \(''\).*Allowed: a class"),
        (["a", "c", "b", "a"], ["a", "b"], r"1 slide has no valid label: s1 \('c'\).*Allowed: a or b"),
        (["a", "a", "a", "a"], [], "Classes with slides: a; requested classes: a"),
        (["a", "a", "b", "a"], ["a", "b", "c"], "Classes with slides: a, b; requested classes: a, b, c"),
        (["0", "1", "1.0", "0"], [], "differ only in spelling: 1 and 1.0.*--classes"),
        (["LUAD", "luad", "x", "x"], [], "differ only in spelling: LUAD and luad"),
    ],
)
def test_labels_that_make_no_task_are_refused(labels: list[str], classes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classification.from_labels(SLIDES, np.array(labels), classes=classes)


def test_spellings_that_are_named_are_classes() -> None:
    assert Classification.from_labels(SLIDES, np.array(["a", "A", "a", "A"]), classes=["A", "a"]).classes == ("A", "a")


def test_no_labels_at_all_are_refused() -> None:
    empty = np.array([], dtype=np.str_)
    with pytest.raises(UsageError, match="Classes with slides: none"):
        Classification.from_labels(empty, empty)


def test_times_and_events_are_read() -> None:
    task = Survival.from_cells(
        SLIDES, np.array(["1", " 2.5", "0", "1e2"]), np.array(["1", "0.0", "True", " 0"]), bins=3
    )
    assert task.times.tolist() == [1, 2.5, 0, 100]
    assert task.events.tolist() == [True, False, True, False]
    assert task.bins == 3


@pytest.mark.parametrize(
    ("times", "events", "message"),
    [
        (["1", "soon", "", "-1"], ["1"] * 4, r"3 slides have no valid time: s1 \('soon'\), s2 \(''\), s3 \('-1'\)"),
        (["1", "nan", "inf", "2"], ["1"] * 4, r"2 slides have no valid time: s1 \('nan'\), s2 \('inf'\)"),
        (["1"] * 4, ["1", "2", "", "dead"], r"3 slides have no valid event: s1 \('2'\), s2 \(''\), s3 \('dead'\)"),
        (["1"] * 4, ["0"] * 4, "all times are censored"),
    ],
)
def test_survival_that_makes_no_task_is_refused(times: list[str], events: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Survival.from_cells(SLIDES, np.array(times), np.array(events))


def test_one_bin_is_refused() -> None:
    with pytest.raises(UsageError, match="Got 1 time bins"):
        Survival.from_cells(SLIDES, np.array(["1"] * 4), np.array(["1"] * 4), bins=1)


def test_a_sensitivity_needs_two_classes() -> None:
    two, three = (("a", "b"), np.array([0, 1])), (("a", "b", "c"), np.array([0, 1, 2]))
    assert require_two_classes(two, 0.9) is two
    assert require_two_classes(three, None) is three
    with pytest.raises(UsageError, match="two classes; found 3: a, b, c"):
        require_two_classes(three, 0.9)
