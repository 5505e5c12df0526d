from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from slpd_toolkit.core.figures.pictures import looks
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.class_figures import (
    FALSE_POSITIVE_RATES,
    confusion,
    draw_confusion,
    fold_rocs,
    roc,
    roc_section,
)
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal


def test_a_curve_goes_through_scikit_learns_points() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(250) % 5 == 0
    scores = rng.normal(size=250) + positive
    curve = roc(positive, scores)
    assert curve is not None
    false_positive, true_positive, _ = roc_curve(positive, scores)
    # 200 negatives: each rate of scikit-learn's is one of the 201 points; where it has several, the highest counts
    for rate in np.unique(false_positive):
        index = round(rate * 200)
        assert FALSE_POSITIVE_RATES[index] == pytest.approx(rate)
        assert curve[index] == pytest.approx(true_positive[false_positive == rate].max())
    assert np.trapezoid(curve, FALSE_POSITIVE_RATES) == pytest.approx(roc_auc_score(positive, scores), abs=3e-3)


def test_perfect_reversed_and_impossible_curves() -> None:
    positive = np.array([True, True, False, False])
    perfect, reversed_ = roc(positive, np.array([4.0, 3, 2, 1])), roc(positive, np.array([1.0, 2, 3, 4]))
    assert perfect is not None
    assert reversed_ is not None
    assert (perfect == 1).all()
    assert (reversed_[:-1] == 0).all()
    assert roc(np.ones(3, bool), np.zeros(3)) is None
    assert roc(np.zeros(3, bool), np.zeros(3)) is None


def test_a_macro_curve_is_the_mean_of_its_classes_and_needs_them_all() -> None:
    rng = np.random.default_rng(0)
    targets = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 1])
    task = Classification(("a", "b", "c"), targets)
    outputs = rng.dirichlet(np.ones(3), size=10)
    folds = (
        FoldPrediction(0, 0, np.arange(6), outputs[:6], 4, ""),
        FoldPrediction(0, 1, np.arange(6, 10), outputs[6:], 6, ""),  # has no c
    )
    result = Result("m", "a", folds, {}, {})
    macro = fold_rocs(result, task, [0, 1, 2])
    assert macro.shape == (1, 201)
    each = [fold_rocs(result, task, [index]) for index in range(3)]
    assert [len(curves) for curves in each] == [2, 2, 1]
    np.testing.assert_allclose(macro[0], np.mean([curves[0] for curves in each], axis=0))


@pytest.mark.parametrize("ordinal", [False, True])
def test_confusion_counts_every_slide_once(ordinal: bool) -> None:
    targets = np.array([0, 1, 2, 2])
    task = (Ordinal if ordinal else Classification)(("a", "b", "c"), targets)
    outputs = np.array([[0.8, 0.1, 0.1], [0.4, 0.15, 0.45], [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]])
    once = Result("m", "a", (FoldPrediction(0, 0, np.arange(4), outputs, 4, ""),), {}, {})
    predicted = [0, 1, 2, 0] if ordinal else [0, 2, 2, 0]  # the median of the second's distribution is b
    np.testing.assert_array_equal(confusion(once, task), confusion_matrix(targets, predicted))
    again = FoldPrediction(1, 0, np.array([3]), np.array([[0.0, 0.0, 1.0]]), 4, "")
    np.testing.assert_allclose(confusion(Result("m", "a", (*once.folds, again), {}, {}), task)[2], [0.5, 0, 1.5])


def test_cells_of_many_classes_have_room_for_counts_only() -> None:
    names = [f"class {letter}" for letter in "abcdefghijkl"]
    targets = np.repeat(np.arange(12), 3)
    task = Classification(tuple(names), targets)
    folds = (FoldPrediction(0, 0, np.arange(36), np.eye(12)[targets], 4, ""),)
    crowded = draw_confusion("confusion-knn", [Result("m", "knn", folds, {}, {})], task)
    few = Classification(("a", "b"), targets % 2)
    roomy = draw_confusion(
        "confusion-knn",
        [Result("m", "knn", (FoldPrediction(0, 0, np.arange(36), np.eye(2)[targets % 2], 4, ""),), {}, {})],
        few,
    )
    assert crowded.svg.count("<!-- 3 -->") == 12
    assert "%" not in "".join(re.findall("<!-- (.*?) -->", crowded.svg, re.DOTALL))
    assert "0 %" in "".join(re.findall("<!-- (.*?) -->", roomy.svg, re.DOTALL))


@pytest.mark.slow
def test_classes_beyond_forty_are_neither_named_nor_drawn_one_by_one() -> None:
    targets = np.arange(41).repeat(2)
    task = Classification(tuple(f"class {number}" for number in range(41)), targets)
    folds = (FoldPrediction(0, 0, np.arange(82), np.eye(41)[targets], 4, ""),)
    result = Result("m", "knn", folds, {"auc": np.ones(1)}, {})
    assert "<!-- class 3 -->" not in draw_confusion("confusion-knn", [result], task).svg
    assert len(roc_section([result], task, looks(["m"])).figures) == 1
