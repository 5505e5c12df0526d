from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.kaplan_meier import kaplan_meier, patient_risk_ranks


def test_the_leukaemia_trial_of_the_textbooks() -> None:
    """Remission in weeks of 21 patients on 6-MP (Freireich 1963), as every textbook works it by hand."""
    times = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], np.float64)
    events = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], bool)
    curve = kaplan_meier(times, events)
    np.testing.assert_array_equal(curve.times, [0, 6, 7, 10, 13, 16, 22, 23])
    np.testing.assert_allclose(curve.survival, [1, 0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], atol=5e-5)
    # R: survfit(Surv(time, event) ~ 1, conf.type = "log-log") prints 0.620 to 0.952 at 6 and 0.188 to 0.680 at 23
    assert (curve.low[1], curve.high[1]) == pytest.approx((0.620, 0.952), abs=1e-3)
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((0.188, 0.680), abs=1e-3)


def test_without_censoring_it_is_the_share_that_lives() -> None:
    times = np.array([3.0, 1, 2, 2])
    curve = kaplan_meier(times, np.ones(4, bool))
    np.testing.assert_array_equal(curve.times, [0, 1, 2, 3])
    np.testing.assert_allclose(curve.survival, [1, 0.75, 0.25, 0])
    assert (curve.low[-1], curve.high[-1]) == (0, 0)


def test_without_events_it_stays_at_one() -> None:
    curve = kaplan_meier(np.array([3.0, 1]), np.zeros(2, bool))
    assert (curve.times.tolist(), curve.survival.tolist()) == ([0], [1])


def test_a_patient_has_the_mean_rank_of_its_slides() -> None:
    folds = (
        FoldPrediction(0, 0, np.array([0, 1, 2]), np.array([[0.1], [0.3], [0.2]]), 1, ""),
        FoldPrediction(0, 1, np.array([3]), np.array([[9.0]]), 3, ""),
    )
    slides, ranks = patient_risk_ranks(Result("m", "a", folds, {}, {}), np.array(["p", "p", "q", "r"]))
    np.testing.assert_array_equal(slides, [0, 2, 3])
    np.testing.assert_allclose(ranks, [0.5, 0.5, 0.5])
