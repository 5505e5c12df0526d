from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.audit import audit_splits
from slpd_toolkit.mil.cohort.near_copies import FEWEST_SLIDES, find_near_copies, near_copy_notes, nearest_within
from slpd_toolkit.mil.cohort.splits import Split


def features(slides: int, seed: int = 0, width: int = 64) -> np.ndarray:
    """Draw correlated features: a few directions have most of the variance, and all have a large mean."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(3, 0.05, width) ** 2
    return 20 + rng.normal(size=(slides, width)) * spread


def as_bags(vectors: np.ndarray) -> Bags:
    return Bags.pack({f"s{number:03}": vector[None] for number, vector in enumerate(vectors)})


@pytest.mark.parametrize("copies", [2, 4])
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.02])
def test_slides_that_stand_several_times_with_little_noise_are_found(copies: int, noise: float) -> None:
    vectors = features(60)
    rng = np.random.default_rng(1)
    added = [vectors[:3] + noise * vectors.std(axis=0) * rng.normal(size=(3, 64)) for _ in range(copies - 1)]
    found = find_near_copies(as_bags(np.concatenate([vectors, *added])))
    groups = {tuple(f"s{row + start:03}" for start in (0, *range(60, 60 + 3 * (copies - 1), 3))) for row in range(3)}
    assert {each.slides for each in found} == groups
    for each in found:
        assert each.correlation > each.typical > 0
        assert each.correlation > each.nearest_other


@pytest.mark.parametrize("seed", range(8))
def test_different_slides_raise_no_alarm(seed: int) -> None:
    assert find_near_copies(as_bags(features(80, seed))) == []


def test_slides_alike_in_the_dominating_features_alone_raise_no_alarm() -> None:
    """Two pale slides far from the others: isolated by correlation, but as different as any two after whitening."""
    vectors = features(80)
    vectors[:2, :3] = vectors[0, :3] + 60
    assert find_near_copies(as_bags(vectors)) == []


@pytest.mark.parametrize("kinds", [1, 40])
def test_the_nearest_within_a_radius_are_those_of_a_search_through_all_pairs(kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    rows = (rng.normal(size=(kinds, 80)) * 5)[rng.integers(kinds, size=900)] + rng.normal(size=(900, 80))
    rows[100:140] = rows[:40] + 0.3 * rng.normal(size=(40, 80))
    distances = cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    radius = float(np.quantile(distances.min(axis=1), 0.2))
    found, neighbours, exact = nearest_within(rows, 8, radius, 1.75)
    assert found.tolist() == np.flatnonzero(distances.min(axis=1) <= radius).tolist()
    expected = np.sort(distances[found], axis=1)[:, :8]
    near = expected <= 1.75 * radius
    np.testing.assert_allclose(exact[near], expected[near])
    order = np.argsort(distances[found], axis=1)[:, :8]
    assert (neighbours[near] == order[near]).all()
    assert (exact[~near] > 1.75 * radius).all()


def test_copies_among_thousands_of_slides_are_found_wherever_they_lie() -> None:
    vectors = features(2600)
    vectors[2000:2040] = vectors[1000:1040] + 1e-4
    found = find_near_copies(as_bags(vectors))
    assert {each.slides for each in found} == {(f"s{row:03}", f"s{row + 1000}") for row in range(1000, 1040)}


def test_few_slides_and_constant_slides_are_passed_over() -> None:
    vectors = features(FEWEST_SLIDES - 1)
    vectors[1] = vectors[0]
    assert find_near_copies(as_bags(vectors)) == []
    vectors = features(40)
    vectors[:2] = 1.0
    assert find_near_copies(as_bags(vectors)) == []


def test_the_audit_flags_copies_in_different_parts_with_their_figures() -> None:
    vectors = features(40)
    vectors[1] = vectors[0] + 1e-4
    bags = as_bags(vectors)
    names = bags.slides
    patient_of = dict(zip(names, names, strict=True))
    copies = find_near_copies(bags)
    apart, together = (
        audit_splits(
            bags, [Split(0, names[first:30], names[30:35], names[:first] + names[35:])], patient_of, (), copies
        )
        for first in (1, 2)
    )
    assert not apart[0].clean
    (finding,) = apart[0].findings
    assert "Near-copies are in different parts: s000, s001 (r of at least 1.000000" in finding
    assert together[0].clean
    (note,) = near_copy_notes({"one": copies, "other": copies, "none": []})
    assert note.startswith(
        "1 group of slides consists of near-copies of one another in one, other, such as s000, s001 (r of"
    )
