from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.predictions import mean_outputs, relative_ranks, risk_ranks, times_tested


def result(*folds: FoldPrediction) -> Result:
    return Result("m", "a", folds, {}, {})


def fold(repeat: int, number: int, outputs: dict[int, list[float]]) -> FoldPrediction:
    rows = np.array(list(outputs), np.int64)
    return FoldPrediction(repeat, number, rows, np.array(list(outputs.values())), 10, "")


def test_outputs_are_averaged_over_the_folds_that_tested_a_slide() -> None:
    found = mean_outputs(
        result(fold(0, 0, {4: [0.2, 0.8], 1: [1.0, 0.0]}), fold(0, 1, {2: [0.5, 0.5]}), fold(1, 0, {4: [0.6, 0.4]}))
    )
    np.testing.assert_array_equal(found.rows, [1, 2, 4])
    np.testing.assert_allclose(found.outputs, [[1.0, 0.0], [0.5, 0.5], [0.4, 0.6]])
    assert found.folds == ("0.0", "0.1", "0.0, 1.0")


def test_folds_of_a_single_repeat_have_short_names() -> None:
    assert mean_outputs(result(fold(0, 3, {0: [1.0]}), fold(0, 5, {1: [1.0]}))).folds == ("3", "5")


def test_how_often_each_prediction_was_tested() -> None:
    found = times_tested(result(fold(0, 0, {4: [1.0], 1: [1.0]}), fold(1, 0, {4: [1.0]})))
    np.testing.assert_array_equal(found, [2, 1, 2])


def test_ranks_are_scipys() -> None:
    values = np.array([3.0, 1.0, 3.0, 2.0, 7.0])
    expected = (np.asarray(rankdata(values), np.float64) - 1) / 4
    np.testing.assert_allclose(relative_ranks(values), expected)
    np.testing.assert_array_equal(relative_ranks(np.full(3, 2.0)), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(relative_ranks(np.array([9.0])), [0.5])


def test_risks_of_different_heads_are_ranked_apart() -> None:
    slides, ranks = risk_ranks(
        result(fold(0, 0, {0: [100.0], 1: [200.0]}), fold(0, 1, {2: [1.0], 3: [0.5]}), fold(1, 0, {0: [5.0], 3: [1.0]}))
    )
    np.testing.assert_array_equal(slides, [0, 1, 2, 3])
    np.testing.assert_allclose(ranks, [0.5, 1, 1, 0])
