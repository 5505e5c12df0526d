from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.report.mean_attention import mean_attention


def test_attention_is_averaged_over_the_folds_that_tested_a_slide() -> None:
    folds = (
        FoldPrediction(0, 0, np.array([2]), np.zeros((1, 2)), 4, "", (np.array([0.5, 0.5]),)),
        FoldPrediction(1, 0, np.array([2, 0]), np.zeros((2, 2)), 4, "", (np.array([0.9, 0.1]), np.array([1.0]))),
    )
    found = mean_attention(Result("m", "a", folds, {}, {}))
    np.testing.assert_allclose(found[2], [0.7, 0.3])
    np.testing.assert_allclose(found[0], [1.0])


def test_probes_have_no_attention() -> None:
    fold = FoldPrediction(0, 0, np.array([0]), np.array([[1.0]]), 4, "")
    assert mean_attention(Result("m", "a", (fold,), {}, {})) == {}
