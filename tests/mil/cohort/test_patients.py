from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.patients import Cohort
from tests.mil.planted import make_cohort


def test_the_patient_table_has_one_sorted_row_a_patient_whatever_the_order_of_slides() -> None:
    cohort = make_cohort([2, 1, 3], ["b", "a", "b"], ["x", "y", "x"])
    order = np.array([5, 0, 3, 1, 4, 2])
    assert cohort.strata is not None
    assert cohort.sites is not None
    shuffled = Cohort(cohort.slides[order], cohort.patients[order], cohort.strata[order], cohort.sites[order])
    for each in (cohort, shuffled):
        table = each.patient_table()
        assert table.ids.tolist() == ["p000", "p001", "p002"]
        assert table.strata.tolist() == ["b", "a", "b"]
        assert table.sites is not None
        assert table.sites.tolist() == ["x", "y", "x"]
        assert table.ids[table.of_slide].tolist() == each.patients.tolist()


def test_without_labels_all_patients_are_one_stratum() -> None:
    table = Cohort(np.array(["s1", "s2"]), np.array(["a", "b"])).patient_table()
    assert len(set(table.strata.tolist())) == 1
    assert table.sites is None


def test_a_patient_with_two_labels_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"1 patient has more than one label: p1 \(LUAD, LUSC\)"):
        Cohort(np.array(["a", "b", "c"]), np.array(["p1", "p1", "p2"]), np.array(["LUSC", "LUAD", "LUAD"]))


def test_a_patient_with_two_sites_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"more than one site: p1 \(05, 5\)"):
        Cohort(np.array(["a", "b"]), np.array(["p1", "p1"]), sites=np.array(["05", "5"]))


@pytest.mark.parametrize(("strata", "found"), [([], "nothing"), (["LUAD", "LUAD"], "LUAD")])
def test_a_single_class_is_refused(strata: list[str], found: str) -> None:
    names = np.array([f"s{i}" for i in range(len(strata))], dtype=np.str_)
    with pytest.raises(UsageError, match=f"have the same label: {found}"):
        Cohort(names, names, np.array(strata, dtype=np.str_))


def test_a_slide_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Duplicate slides: a\."):
        Cohort(np.array(["a", "b", "a"]), np.array(["p", "p", "q"]))


def test_messages_list_eight_names_and_count_the_rest() -> None:
    patients = np.repeat([f"p{i}" for i in range(10)], 2)
    slides = np.array([f"s{i}" for i in range(20)])
    with pytest.raises(UsageError, match=r"10 patients.*p7 \(0, 1\) and 2 more\."):
        Cohort(slides, patients, np.array(["0", "1"] * 10))
