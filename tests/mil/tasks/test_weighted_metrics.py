from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, recall_score, roc_auc_score

from slpd_toolkit.mil.tasks import metrics, weighted_metrics
from slpd_toolkit.mil.tasks.kinds.survival import Survival

grid = st.integers(0, 6)


@st.composite
def weighted_cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, probabilities with many ties, and three weightings with zeros."""
    classes, cases = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=cases, max_size=cases))
    raw = np.array(draw(st.lists(st.lists(grid, min_size=classes, max_size=classes), min_size=cases, max_size=cases)))
    weights = draw(st.lists(st.lists(st.integers(0, 3), min_size=cases, max_size=cases), min_size=3, max_size=3))
    return np.array(targets), (raw + 0.5) / (raw + 0.5).sum(axis=1, keepdims=True), np.array(weights, dtype=np.float64)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(cases=weighted_cases(), ordinal=st.booleans())
def test_a_whole_weight_is_that_many_copies_of_the_case(
    cases: tuple[np.ndarray, np.ndarray, np.ndarray],
    ordinal: bool,
) -> None:
    targets, probabilities, weights = cases
    found = weighted_metrics.classification(targets, probabilities, weights, ordinal=ordinal)
    for replicate, counts in enumerate(weights.astype(int)):
        copies = np.repeat(np.arange(len(targets)), counts)
        if not len(copies):
            assert all(math.isnan(values[replicate]) for values in found.values())
            continue
        expected = metrics.classification(targets[copies], probabilities[copies], ordinal=ordinal)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            np.testing.assert_allclose(values[replicate], expected[name], atol=1e-12, err_msg=name)


def test_fractional_weights_are_scikit_learns_sample_weights() -> None:
    rng = np.random.default_rng(0)
    targets, raw, weights = rng.integers(0, 3, 50), rng.random((50, 3)).round(1) + 0.1, rng.random((2, 50))
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    found = weighted_metrics.classification(targets, probabilities, weights)
    for replicate, weight in enumerate(weights):
        areas = [roc_auc_score(targets == c, probabilities[:, c], sample_weight=weight) for c in range(3)]
        assert found["auc"][replicate] == pytest.approx(np.mean(areas))
        scores = {
            "balanced_accuracy": recall_score(targets, predicted, average="macro", sample_weight=weight),
            "accuracy": weight[targets == predicted].sum() / weight.sum(),
            "f1": f1_score(targets, predicted, average="macro", sample_weight=weight),
            "kappa": cohen_kappa_score(targets, predicted, sample_weight=weight),
        }
        assert {name: found[name][replicate] for name in scores} == pytest.approx(scores)


def test_survival_weights_reach_the_concordance_index() -> None:
    times, events, risks = np.array([1.0, 2.0, 3.0]), np.ones(3, bool), np.array([3.0, 1.0, 2.0])
    weights = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    found = Survival(times, events).weighted_metrics(np.arange(3), risks[:, None], weights)
    assert found["c_index"].tolist() == pytest.approx([1, 0, 2 / 3])


def test_memory_does_not_grow_with_pairs_of_classes() -> None:
    classes, rng = 1000, np.random.default_rng(0)
    targets, probabilities = rng.integers(classes, size=60), rng.dirichlet(np.ones(classes), size=60)
    tracemalloc.start()
    found = weighted_metrics.classification(targets, probabilities, np.ones((20, 60)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # confusion matrices of the 20 weightings alone would be 160 MB
    assert found["accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=1) == targets))
