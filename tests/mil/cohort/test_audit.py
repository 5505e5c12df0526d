from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.audit import SharedVectors, audit_split, find_shared_vectors
from slpd_toolkit.mil.cohort.clam_tables import read_labels, read_split
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import Split
from tests.mil.planted import make_cohort

if TYPE_CHECKING:
    from pathlib import Path

PATIENT_OF = {"a1": "A", "a2": "A", "b1": "B", "b2": "B", "c1": "C", "c2": "C", "d1": "D"}
LEAKY = Split(2, train=("a1", "b1"), val=("b2",), test=("a2", "c1"), repeat=1)


def test_patients_on_two_sides_are_named_for_each_pair_of_parts() -> None:
    audit = audit_split(LEAKY, PATIENT_OF)
    assert audit.shared_patients == {("train", "val"): ("B",), ("train", "test"): ("A",)}
    assert (audit.repeat, audit.fold) == (1, 2)
    assert not audit.clean
    assert audit.findings == ["1 patient is in both train and val: B.", "1 patient is in both train and test: A."]


def test_test_slides_and_test_patients_that_pretraining_saw_are_told_apart() -> None:
    split = Split(0, train=("a1", "a2"), val=("b1",), test=("c1", "d1"))
    audit = audit_split(split, PATIENT_OF, pretrained=["d1", "c2", "a1", "b1", "elsewhere"])
    assert audit.pretrained_slides == ("d1",)
    assert audit.pretrained_patients == ("C",)
    assert audit.shared_patients == {}
    assert audit.findings == [
        "1 test slide was used in pretraining: d1.",
        "Other slides of 1 test patient were used in pretraining: C.",
    ]


@pytest.mark.parametrize(
    ("pretrained", "shared"),
    [(["c1"], []), (["c2"], []), ([], [SharedVectors(("a1", "c1"), 1)])],
    ids=["slide", "patient", "vectors"],
)
def test_each_finding_alone_is_not_clean(pretrained: list[str], shared: list[SharedVectors]) -> None:
    split = Split(0, train=("a1", "a2"), val=("b1",), test=("c1",))
    assert audit_split(split, PATIENT_OF).clean
    assert audit_split(split, PATIENT_OF).findings == []
    audit = audit_split(split, PATIENT_OF, pretrained=pretrained, shared_vectors=shared)
    assert not audit.clean
    assert len(audit.findings) == 1


def test_identical_embeddings_count_where_they_stand_on_two_sides() -> None:
    shared = [SharedVectors(("a1", "b1"), 5), SharedVectors(("b1", "c1"), 3), SharedVectors(("c1", "d1"), 1)]
    audit = audit_split(LEAKY, PATIENT_OF, shared_vectors=shared)
    assert audit.shared_vectors == (SharedVectors(("b1", "c1"), 3),)
    assert audit.findings[-1] == "3 identical embeddings occur in different parts, in the slides b1, c1."


def test_a_slide_without_patient_is_refused() -> None:
    with pytest.raises(UsageError, match="1 slide in the split has no patient: x"):
        audit_split(Split(0, ("a1",), ("x",), ("b1",)), PATIENT_OF)


def test_shared_vectors_are_found_as_a_loop_over_all_pairs_finds_them() -> None:
    rng = np.random.default_rng(0)
    loose = {f"s{i}": rng.standard_normal((4, 5)).astype(np.float32) for i in range(6)}
    blank = np.zeros(5, dtype=np.float32)
    loose["s0"][1] = loose["s2"][3] = loose["s5"][0] = blank
    loose["s0"][2] = blank  # twice in one slide is no leak of its own
    loose["s4"] = loose["s1"][::-1].copy()
    loose["s3"][0] = np.nextafter(loose["s5"][1], np.float32(np.inf))  # as near as can be, and not identical
    pairs = {
        (first, second)
        for first in loose
        for second in loose
        if first < second and any((x == y).all() for x in loose[first] for y in loose[second])
    }
    found = find_shared_vectors(Bags.pack(loose))
    assert found == [SharedVectors(("s1", "s4"), 4), SharedVectors(("s0", "s2", "s5"), 1)]
    assert pairs == {("s1", "s4"), ("s0", "s2"), ("s0", "s5"), ("s2", "s5")}


@pytest.mark.parametrize(("number", "leaked"), [(0, (10, 12, 1)), (1, (14, 8, 2))])
def test_the_published_splits_leak_patients(tcga_labels: Path, number: int, leaked: tuple[int, int, int]) -> None:
    split = read_split(tcga_labels / f"tcga_brca_splits_{number}.csv", fold=number)
    audit = audit_split(split, {slide: slide[:12] for part in split.parts.values() for slide in part})
    counts = {pair: len(patients) for pair, patients in audit.shared_patients.items()}
    assert counts == dict(zip([("train", "val"), ("train", "test"), ("val", "test")], leaked, strict=True))
    in_test = {slide[:12] for slide in split.test}
    assert set(audit.shared_patients["train", "test"]) == {slide[:12] for slide in split.train} & in_test


def test_the_published_splits_leak_among_the_labelled_slides_too_and_ours_do_not(tcga_labels: Path) -> None:
    table = read_labels(tcga_labels / "tcga_brca_clam_style.csv")
    patient_of = dict(zip(table["slide_id"], table["patient_id"], strict=True))
    split = read_split(tcga_labels / "tcga_brca_splits_0.csv", fold=0).restricted_to(patient_of)
    assert [len(part) for part in split.parts.values()] == [715, 79, 81]
    counts = {pair: len(patients) for pair, patients in audit_split(split, patient_of).shared_patients.items()}
    assert counts == {("train", "val"): 4, ("train", "test"): 8}
    counted = table["patient_id"].value_counts()
    cohort = make_cohort(counted.tolist(), ["IDC", "ILC"] * 448 + ["IDC"])
    ours = dict(zip(cohort.slides.tolist(), cohort.patients.tolist(), strict=True))
    assert all(audit_split(each, ours).clean for each in cross_validation(cohort, folds=10))
