from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from slpd_toolkit.mil.tasks import metrics


def random_predictions(cases: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.append(np.arange(classes), rng.integers(0, classes, cases - classes))
    logits = rng.normal(size=(cases, classes)) + 1.5 * np.eye(classes)[targets]
    return targets, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_a_hand_worked_binary_example() -> None:
    targets = np.array([0, 0, 0, 1, 1])
    positive = np.array([0.1, 0.6, 0.3, 0.8, 0.4])
    values = metrics.classification(targets, np.stack([1 - positive, positive], axis=1))
    # Positives beat negatives in 3 + 2 of 6 pairs. Confusion [[2, 1], [1, 1]]: chance agreement (3 * 3 + 2 * 2) / 25.
    assert values == pytest.approx(
        {
            "auc": 5 / 6,
            "balanced_accuracy": (2 / 3 + 1 / 2) / 2,
            "accuracy": 3 / 5,
            "f1": (4 / 6 + 2 / 4) / 2,
            "kappa": (3 / 5 - 13 / 25) / (1 - 13 / 25),
        }
    )


def test_several_classes_are_scored_one_against_the_rest() -> None:
    targets, probabilities = random_predictions(80, 4)
    values = metrics.classification(targets, probabilities)
    assert values["auc"] == pytest.approx(roc_auc_score(targets, probabilities, multi_class="ovr", average="macro"))
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, probabilities.argmax(axis=1)))
    assert "quadratic_kappa" not in values


def test_quadratic_kappa_is_cohens_published_formula() -> None:
    targets, predicted = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 2, 1, 0, 2, 1, 2])
    observed = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 2]])
    chance = np.outer([2, 2, 3], [2, 2, 3]) / 7
    costs = np.array([[0, 1, 4], [1, 0, 1], [4, 1, 0]])
    expected = 1 - (costs * observed).sum() / (costs * chance).sum()
    assert metrics.kappa(metrics.confusion_matrix(targets, predicted, 3), quadratic=True) == pytest.approx(expected)
    # An empty class in the middle keeps its place: grades 0 and 2 are two steps apart.
    gap = metrics.confusion_matrix(np.array([0, 0, 3]), np.array([0, 2, 3]), 4)
    assert metrics.kappa(gap, quadratic=True) == pytest.approx(
        1 - 4 / ((4 * 2 * 1 + 9 * 2 * 1 + 9 * 1 * 1 + 1 * 1 * 1) / 3)
    )


@pytest.mark.parametrize("seed", range(30))
def test_metrics_of_a_confusion_matrix_are_scikit_learns_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, cases, ordinal = int(rng.integers(2, 7)), int(rng.integers(8, 60)), bool(seed % 2)
    targets, probabilities = rng.integers(0, classes - seed % 3 // 2, cases), rng.dirichlet(np.ones(classes), cases)
    values = metrics.classification(targets, probabilities, ordinal=ordinal)
    predicted, labels = metrics.predicted_classes(probabilities, ordinal=ordinal), np.arange(classes)
    assert values["accuracy"] == accuracy_score(targets, predicted)
    assert values["balanced_accuracy"] == recall_score(
        targets, predicted, labels=np.unique(targets), average="macro", zero_division=0.0
    )
    assert values["f1"] == f1_score(targets, predicted, average="macro", zero_division=0.0)
    assert values["kappa"] == cohen_kappa_score(targets, predicted, labels=labels)
    if ordinal:
        assert values["quadratic_kappa"] == cohen_kappa_score(targets, predicted, labels=labels, weights="quadratic")


def test_ordered_classes_are_predicted_by_the_median() -> None:
    probabilities = np.array([[0.4, 0.25, 0.35], [0.1, 0.2, 0.7], [0.5, 0.1, 0.4]])
    assert metrics.predicted_classes(probabilities).tolist() == [0, 2, 0]
    assert metrics.predicted_classes(probabilities, ordinal=True).tolist() == [1, 2, 0]
    values = metrics.classification(np.array([1, 2, 0]), probabilities, ordinal=True)
    assert values["accuracy"] == values["quadratic_kappa"] == 1


def test_what_a_missing_class_leaves_undefined_is_nan_without_a_warning() -> None:
    targets, probabilities = random_predictions(30, 3)
    values = metrics.classification(targets[targets != 2], probabilities[targets != 2])
    assert math.isnan(values["auc"])
    # Some cases are predicted as the class that has none.
    assert 2 in probabilities[targets != 2].argmax(axis=1)
    recalls = [(probabilities[targets == index].argmax(axis=1) == index).mean() for index in (0, 1)]
    assert values["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    alone = metrics.classification(np.zeros(3, dtype=np.int64), np.tile([0.9, 0.1], (3, 1)), ordinal=True)
    assert [name for name, value in alone.items() if math.isnan(value)] == ["auc", "kappa", "quadratic_kappa"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=1, max_size=30))
def test_the_bins_of_a_reliability_curve_hold_all_cases(rows: list[tuple[bool, int]]) -> None:
    positive, probabilities = np.array([row[0] for row in rows]), np.array([row[1] / 40 for row in rows])
    curve = metrics.reliability(positive, probabilities)
    assert curve.counts.sum() == len(rows)
    assert curve.counts @ curve.predicted == pytest.approx(probabilities.sum())
    assert curve.counts @ curve.observed == pytest.approx(positive.sum())


def test_calibration_error_worked_by_hand() -> None:
    # Confidences .95 .95 (one right) and .65 (right): |1/2 - .95| * 2/3 + |1 - .65| * 1/3.
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.35, 0.65]])
    error = metrics.expected_calibration_error(np.array([0, 0, 1]), probabilities)
    assert error == pytest.approx(0.45 * 2 / 3 + 0.35 / 3)
