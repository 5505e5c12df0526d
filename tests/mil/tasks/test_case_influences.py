"""Influences are the derivatives of the weighted metrics, in every kind of target, with ties, weights and censoring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.mil.tasks import case_influences
from slpd_toolkit.mil.tasks.concordance import pairs_of_cases, weighted_concordance
from slpd_toolkit.mil.tasks.derivatives import of_pairs
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.multilabel import MultiLabel
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.regression import Regression
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.regression_metrics import influences as regression_influences
from slpd_toolkit.mil.tasks.task import influences
from slpd_toolkit.mil.tasks.weighted_metrics import brier_score, calibration_error, pairs_won
from slpd_toolkit.mil.tasks.weighted_ranks import weight_below, weight_later, weight_later_and_below

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.mil.tasks.task import Task

    Weighted = Callable[[np.ndarray], dict[str, np.ndarray]]

CASES = 40
RNG = np.random.default_rng(5)
TARGETS = RNG.integers(0, 3, CASES)
LEVELS = (RNG.integers(0, 6, (CASES, 3)) + 0.5) / 7
PROBABILITIES = LEVELS / LEVELS.sum(axis=1, keepdims=True)  # with ties
TIMES, EVENTS = RNG.integers(1, 12, CASES).astype(np.float64), RNG.random(CASES) < 0.6
CURVES = np.sort(RNG.random((CASES, 16)), axis=1)[:, ::-1]
LABELS = RNG.integers(-1, 2, (CASES, 2))


def survival() -> tuple[Task, np.ndarray]:
    task = Survival(TIMES, EVENTS)
    return task, np.column_stack([RNG.integers(0, 8, CASES) / 7, CURVES[:, : len(task.grid)]])


TASKS: dict[str, tuple[Task, np.ndarray]] = {
    "classes": (Classification(("a", "b", "c"), TARGETS), PROBABILITIES),
    "grades": (Ordinal(("a", "b", "c"), TARGETS), PROBABILITIES),
    "labels": (MultiLabel(("x", "y"), (("0", "1"), ("0", "1")), LABELS), LEVELS[:, :2]),
    "number": (Regression(RNG.integers(0, 9, CASES) / 3), RNG.integers(0, 9, (CASES, 1)) / 4),
    "survival": survival(),
}


def derivatives(weighted: Weighted, cases: int) -> dict[str, np.ndarray]:
    """One case after the other: central differences."""
    step = 1e-4
    up, down = (weighted(1 + sign * step * np.eye(cases)) for sign in (1, -1))
    return {name: (up[name] - down[name]) / (2 * step) for name in up}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("rows", [np.arange(CASES), np.arange(3, CASES, 2)])
def test_influences_are_derivatives(kind: str, rows: np.ndarray) -> None:
    task, outputs = TASKS[kind]
    found = task.exact_influences(rows, outputs[rows])
    expected = derivatives(lambda weights: task.weighted_metrics(rows, outputs[rows], weights), len(rows))
    assert found.keys() == expected.keys() == set(task.known_metrics)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=2e-9, err_msg=name)
        assert np.abs(values).max() > 1e-3


class WithMeanGap(Ordinal):
    """Ordinal classes with one more metric, which has no exact influences."""

    def weighted_metrics(self, rows, outputs, weights):  # type: ignore[no-untyped-def]
        gaps = np.abs(self.scores(outputs)[:, 0] - self.targets[rows])
        return super().weighted_metrics(rows, outputs, weights) | {"gap": weights @ gaps / weights.sum(axis=1)}


def test_a_metric_without_exact_influences_gets_them_by_differences() -> None:
    times = 7  # more cases than are computed at once
    task = WithMeanGap(("a", "b", "c"), np.tile(TARGETS, times))
    rows, outputs = np.arange(times * CASES), np.tile(PROBABILITIES, (times, 1))
    found, exact = influences(task, rows, outputs), task.exact_influences(rows, outputs)
    assert found.keys() - exact.keys() == {"gap"}
    assert all(np.array_equal(found[name], exact[name]) for name in exact)
    gaps = np.abs(task.scores(outputs)[:, 0] - task.targets)
    np.testing.assert_allclose(found["gap"], (gaps - gaps.mean()) / len(gaps), rtol=1e-6, atol=1e-12)


def test_influences_on_calibration_are_derivatives() -> None:
    found = {
        "brier": case_influences.brier_score(TARGETS, PROBABILITIES),
        "ece": case_influences.calibration_error(TARGETS, PROBABILITIES),
    }
    expected = derivatives(
        lambda weights: {
            "brier": brier_score(TARGETS, PROBABILITIES, weights),
            "ece": calibration_error(TARGETS, PROBABILITIES, weights),
        },
        CASES,
    )
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=2e-9, err_msg=name)


def test_where_errors_of_a_bin_cancel_any_weight_increases_the_calibration_error() -> None:
    targets, probabilities = np.array([0, 1]), np.full((2, 2), 0.5)
    assert case_influences.calibration_error(targets, probabilities).tolist() == [0.25, 0.25]


def test_undefined_metrics_have_undefined_influences() -> None:
    found = case_influences.classification(np.zeros(5, np.int64), np.full((5, 2), 0.5))
    assert {name for name, values in found.items() if np.isnan(values).all()} == {"auc", "kappa"}
    assert all(np.isfinite(found[name]).all() for name in ("accuracy", "f1", "balanced_accuracy"))
    found = regression_influences(np.full(5, 2.0), np.arange(5.0))
    assert {name for name, values in found.items() if np.isnan(values).all()} == {"spearman", "r2"}
    pairs = pairs_of_cases(np.arange(3.0), np.zeros(3, np.bool_), np.arange(3.0))
    assert np.isnan(of_pairs(pairs.right, pairs.known)).all()


def compare(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs at once, (N, N): which are comparable, and how much of each counts as right."""
    comparable = events[:, None] & ((times[:, None] < times) | ((times[:, None] == times) & ~events))
    return comparable, comparable * ((risks[:, None] > risks) + (risks[:, None] == risks) / 2)


@pytest.mark.parametrize(
    ("cases", "moments", "levels"),
    [(1, 1, 1), (2, 2, 2), (40, 5, 4), (257, 400, 5), (500, 3, 900), (600, 2000, 2000)],
)
@pytest.mark.parametrize("observed", [0.0, 0.4, 1.0])
def test_the_concordance_index_and_its_influences_equal_a_matrix_of_all_pairs(
    cases: int, moments: int, levels: int, observed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slpd_toolkit.mil.tasks.weighted_ranks._LEAF", 64)
    rng = np.random.default_rng(cases)
    times, risks = rng.integers(0, moments, cases) / 3, rng.integers(0, levels, cases) / 7
    times[: cases // 3] = times[0]  # a group that is larger than a block
    events, of_first = rng.random(cases) < observed, rng.random(cases)
    weights = np.stack([np.ones(cases), rng.integers(0, 3, cases), rng.random(cases)])
    comparable, concordant = compare(times, events, risks)
    for first in (None, of_first):
        factor = np.ones(cases) if first is None else first
        known, right = ((weights * factor * (weights @ each.T)).sum(axis=1) for each in (comparable, concordant))
        expected = np.divide(right, known, out=np.full(3, np.nan), where=known > 0)
        found = weighted_concordance(times, events, risks, weights, of_first=first)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        pairs = pairs_of_cases(times, events, risks, of_first=first)
        for values, matrix in ((pairs.known, comparable), (pairs.right, concordant)):
            of_pairs_ = matrix * factor[:, None]
            np.testing.assert_allclose(values, of_pairs_.sum(axis=0) + of_pairs_.sum(axis=1), rtol=1e-12, atol=1e-9)
        if not math.isnan(found[0]):
            both = (concordant - found[0] * comparable) * factor[:, None] / (comparable * factor[:, None]).sum()
            np.testing.assert_allclose(
                of_pairs(pairs.right, pairs.known), both.sum(axis=0) + both.sum(axis=1), rtol=1e-12, atol=1e-15
            )


def test_sums_of_lower_cases_equal_a_matrix_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    values, groups, weights = rng.integers(0, 20, 300) / 3, np.sort(rng.integers(0, 4, 300)), rng.random((2, 300))
    lower = (values[:, None] > values) + (values[:, None] == values) / 2
    np.testing.assert_allclose(weight_below(values, weights), weights @ lower.T, rtol=1e-12)
    later, wanted = groups[:, None] < groups, np.flatnonzero(rng.random(300) < 0.7)
    expected = weights @ later[wanted].T
    np.testing.assert_allclose(weight_later(groups, weights, wanted), expected, rtol=1e-12, atol=1e-12)
    found = weight_later_and_below(groups, values, weights, wanted)
    np.testing.assert_allclose(found, weights @ (lower * later)[wanted].T, rtol=1e-12, atol=1e-12)


def test_pairs_of_a_group_equal_a_matrix_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    positive, scores, within = rng.random(300) < 0.3, rng.integers(0, 9, 300) / 3, rng.integers(0, 40, 300)
    weights = rng.integers(0, 4, (3, 300)).astype(np.float64)
    known = positive[:, None] & ~positive
    won = known * ((scores[:, None] > scores) + (scores[:, None] == scores) / 2)
    same = within[:, None] == within
    for group, counted in ((None, np.ones((300, 300))), (within, same)):
        right, total = pairs_won(positive, scores, weights, group)
        assert right.tolist() == (weights * (weights @ (won * counted).T)).sum(axis=1).tolist()
        assert total.tolist() == (weights * (weights @ (known * counted).T)).sum(axis=1).tolist()
