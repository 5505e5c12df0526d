from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.set_similarity import padded_sets, similarities
from slpd_toolkit.mil.statistics import retrieval
from slpd_toolkit.mil.statistics.results import Representation
from slpd_toolkit.mil.statistics.retrieval import measure_retrieval
from tests.mil.planted import make_cohort, planted_bags, task_of

COHORT = make_cohort([1, 2] * 10, ["a", "b", "b", "a"] * 5)
BAGS = planted_bags(COHORT, signal=2.0)
LABELS = task_of(COHORT).targets
SPLITS = cross_validation(COHORT, folds=4, repeats=2)


def by_hand(similarity: np.ndarray) -> dict[str, float]:
    """Every query by plain loops."""
    slides, patients = COHORT.slides.tolist(), COHORT.patients.tolist()
    of_patient: dict[str, list[list[float]]] = {}
    for split in (each for each in SPLITS if each.repeat == 0):
        for name in split.test:
            query = slides.index(name)
            others = [slides.index(each) for each in (*split.train, *split.val)]
            others = [row for row in others if patients[row] != patients[query]]
            others.sort(key=lambda row: -similarity[query, row])
            same = [LABELS[row] == LABELS[query] for row in others]
            values = [float(sum(same[:k]) > k / 2) for k in (1, 3, 5)]
            hits = [sum(same[: i + 1]) / (i + 1) for i in range(5) if same[i]]
            of_patient.setdefault(patients[query], []).append([*values, sum(hits) / min(5, sum(same))])
    means = np.mean([np.mean(each, axis=0) for each in of_patient.values()], axis=0)
    return dict(zip(("majority_1", "majority_3", "majority_5", "map_5"), means.tolist(), strict=True))


def test_equals_plain_loops_by_the_cosine_of_means() -> None:
    found = measure_retrieval(Representation("x", "", BAGS), LABELS, COHORT, SPLITS, 0)
    assert found is not None
    unit = BAGS.mean() / np.linalg.norm(BAGS.mean(), axis=1, keepdims=True)
    expected = by_hand(unit @ unit.T)
    assert {name: value.mean for name, value in found.values.items()} == pytest.approx(expected)
    assert (found.queries, found.patients) == (30, 20)
    assert all(value.low <= value.mean <= value.high for value in found.values.values())
    assert 0.4 < found.chance < 0.6


def test_of_many_test_slides_some_are_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "MOST_QUERIES", 12)
    first, again, other = (
        measure_retrieval(Representation("x", "", BAGS), LABELS, COHORT, SPLITS, seed) for seed in (0, 0, 1)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert first == again
    assert first.queries == other.queries == 12
    assert first.values != other.values


def test_sets_are_compared_by_matching() -> None:
    sets = ChosenDescriptor("prototypes", 2).apply(BAGS, np.empty(0, np.int64))
    found = measure_retrieval(Representation("x", "", sets), LABELS, COHORT, SPLITS, 0)
    padded = padded_sets(sets)
    similarity = similarities(padded, padded)
    assert found is not None
    assert {name: value.mean for name, value in found.values.items()} == pytest.approx(by_hand(similarity))


def test_other_slides_of_the_patient_are_never_found() -> None:
    """All slides of a patient are copies; labels are at chance."""
    first = {patient: row for row, patient in reversed(list(enumerate(COHORT.patients)))}
    noise = np.random.default_rng(0).normal(size=(30, 1, 8))
    bags = Bags.pack({slide: noise[first[p]] for slide, p in zip(COHORT.slides, COHORT.patients, strict=True)})
    slides = COHORT.slides.tolist()
    split = dataclasses.replace(SPLITS[0], train=tuple(slides), val=tuple(slides), test=tuple(slides))
    found = measure_retrieval(Representation("x", "", bags), LABELS, COHORT, [split], 0)
    assert found is not None
    assert found.values["majority_1"].mean < 0.8


def test_fitted_descriptors_see_the_training_slides_only() -> None:
    descriptor = ChosenDescriptor("histogram", 3)
    found = measure_retrieval(Representation("x", "", BAGS, descriptor=descriptor), LABELS, COHORT, SPLITS, 0)
    features = BAGS.features.copy()
    rows = BAGS.index_of(SPLITS[0].test)
    features[BAGS.regions_of(rows)] *= -1e3
    spoilt = dataclasses.replace(BAGS, features=features)
    one = measure_retrieval(Representation("x", "", spoilt, descriptor=descriptor), LABELS, COHORT, SPLITS[:1], 0)
    assert found is not None
    assert one is not None
    assert one.queries == len(rows)


def test_a_perfect_value_has_the_exact_bound() -> None:
    marked = {slide: 9.0 * np.eye(2)[[label]] for slide, label in zip(COHORT.slides, LABELS, strict=True)}
    found = measure_retrieval(Representation("x", "", Bags.pack(marked)), LABELS, COHORT, SPLITS, 0)
    assert found is not None
    value = found.values["map_5"]
    assert (value.mean, value.high) == (1.0, 1.0)
    assert value.low == pytest.approx(0.025 ** (1 / 20))
