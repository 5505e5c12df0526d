from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from slpd_toolkit.mil.tasks.concordance import concordance_index, weighted_concordance


def concordance_by_hand(times: list[float], events: list[bool], risks: list[float], weights: list[float]) -> float:
    """All ordered pairs, one after the other, from the words of the definition."""
    known = right = 0.0
    for i in range(len(times)):
        for j in range(len(times)):
            i_lives_shorter = times[i] < times[j] and events[i]
            i_dies_as_j_leaves = times[i] == times[j] and events[i] and not events[j]
            if i_lives_shorter or i_dies_as_j_leaves:
                known += weights[i] * weights[j]
                if risks[i] > risks[j]:
                    right += weights[i] * weights[j]
                elif risks[i] == risks[j]:
                    right += 0.5 * weights[i] * weights[j]
    return right / known if known else math.nan


cases = st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3), st.integers(0, 3))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(cases, min_size=1, max_size=14))
def test_it_is_what_a_loop_over_all_pairs_gives_with_ties_censoring_and_weights(
    rows: list[tuple[int, bool, int, int]],
) -> None:
    times, events, risks, weights = (list(column) for column in zip(*rows, strict=True))
    arrays = np.array(times, dtype=np.float64), np.array(events), np.array(risks, dtype=np.float64)
    np.testing.assert_allclose(concordance_index(*arrays), concordance_by_hand(times, events, risks, [1] * len(times)))
    both = np.array([weights, [1] * len(times)], dtype=np.float64)
    np.testing.assert_allclose(
        weighted_concordance(*arrays, both),
        [
            concordance_by_hand(times, events, risks, weights),
            concordance_by_hand(times, events, risks, [1] * len(times)),
        ],
    )


@pytest.mark.parametrize(
    ("times", "events", "risks", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], [3, 2, 1], 1.0),
        ([1, 2, 3], [1, 1, 1], [1, 2, 3], 0.0),
        ([1, 2, 3], [1, 1, 1], [3, 1, 2], 2 / 3),  # pairs 12 right, 13 right, 23 wrong
        ([1, 2, 3], [0, 1, 1], [1, 3, 2], 1.0),  # the first is censored before anyone dies: only 23 is known
        ([1, 2, 3], [1, 0, 1], [2, 9, 1], 0.5),  # 12 wrong, 13 right, 23 unknown
        ([2, 2], [1, 0], [5, 1], 1.0),  # the censored one outlives the one that dies at the same time
        ([2, 2], [1, 0], [1, 5], 0.0),
        ([2, 2, 3], [1, 1, 1], [5, 1, 3], 0.5),  # two deaths at once are not ordered; 13 right, 23 wrong
        ([1, 2, 3], [1, 1, 1], [2, 2, 1], 2.5 / 3),  # equal risks count half
    ],
)
def test_worked_by_hand(times: list[float], events: list[int], risks: list[float], expected: float) -> None:
    index = concordance_index(np.array(times, float), np.array(events, bool), np.array(risks, float))
    assert index == pytest.approx(expected)


def test_without_a_comparable_pair_it_is_undefined() -> None:
    assert math.isnan(concordance_index(np.array([1.0, 2.0]), np.zeros(2, bool), np.array([1.0, 2.0])))
    assert math.isnan(concordance_index(np.array([2.0, 2.0]), np.ones(2, bool), np.array([1.0, 2.0])))


def test_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    times, events, risks = (
        rng.integers(0, 400, 1200).astype(float),
        rng.random(1200) < 0.9,
        rng.integers(0, 50, 1200) / 7,
    )
    comparable = events[:, None] & ((times[:, None] < times) | ((times[:, None] == times) & ~events))
    right = comparable * ((risks[:, None] > risks) + 0.5 * (risks[:, None] == risks))
    assert concordance_index(times, events, risks) == pytest.approx(right.sum() / comparable.sum())


def test_without_censoring_and_with_two_times_it_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    late = rng.random(60) < 0.4
    risks = rng.integers(0, 10, 60) / 3
    index = concordance_index(np.where(late, 2.0, 1.0), np.ones(60, bool), risks)
    assert index == pytest.approx(roc_auc_score(~late, risks))
