from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.kaplan_meier import kaplan_meier
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.survival_calibration import calibration_of, survival_calibration

HORIZON = 10.0


def exponential(patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, events and true rates; a third is censored."""
    rng = np.random.default_rng(2)
    rates = 0.05 * np.exp(rng.normal(size=patients))
    event, censored = rng.exponential(1 / rates), rng.exponential(30, patients)
    return np.minimum(event, censored), event <= censored, rates


@pytest.mark.slow
def test_true_risks_lie_on_the_diagonal_and_halved_hazards_above_it() -> None:
    times, events, rates = exponential(20_000)
    truth = survival_calibration(times, events, 1 - np.exp(-rates * HORIZON), HORIZON)
    assert truth.counts.tolist() == [4000] * 5
    np.testing.assert_allclose(truth.observed, truth.predicted, atol=0.02)
    assert ((truth.low < truth.predicted) & (truth.predicted < truth.high)).all()
    low = survival_calibration(times, events, 1 - np.exp(-rates / 2 * HORIZON), HORIZON)
    np.testing.assert_allclose(low.observed, truth.observed)  # the order is the same, and so are the groups
    assert (low.low > low.predicted).all()


def test_without_censoring_it_is_the_share_of_each_group_with_an_event() -> None:
    times = np.concatenate([np.full(8, 20.0), np.full(2, 5.0), np.full(3, 20.0), np.full(7, HORIZON)])
    found = survival_calibration(times, np.ones(20, bool), np.repeat([0.1, 0.6], 10), HORIZON)
    np.testing.assert_allclose(found.predicted, [0.1, 0.6])
    np.testing.assert_allclose(found.observed, [0.2, 0.7])
    assert (found.low < found.observed).all()
    assert (found.observed < found.high).all()


def test_it_is_one_minus_kaplan_meier_and_needs_no_more_than_a_group() -> None:
    times, events, rates = exponential(15)
    found = survival_calibration(times, events, rates, HORIZON)
    curve = kaplan_meier(times, events)
    last = np.flatnonzero(curve.times <= HORIZON)[-1]
    assert found.counts.tolist() == [15]
    assert found.observed[0] == pytest.approx(1 - curve.survival[last])
    assert (found.low[0], found.high[0]) == pytest.approx((1 - curve.high[last], 1 - curve.low[last]))


def test_a_patient_counts_once_with_the_mean_of_slides_and_repeats() -> None:
    task = Survival(np.array([2.0, 2, 4, 6]), np.array([True, True, True, False]))
    patients = np.array(["p", "p", "q", "r"])
    middle, width = len(task.grid) // 2, len(task.grid)
    folds = []
    for repeat, survival in enumerate(([0.9, 0.7, 0.5, 0.1], [0.7, 0.5, 0.3, 0.1])):
        outputs = np.zeros((4, 1 + width))
        outputs[:, 1 + middle] = survival
        folds.append(FoldPrediction(repeat, 0, np.arange(4), outputs, 1, ""))
    found = calibration_of(Result("m", "a", tuple(folds), {}, {}), task, patients)
    assert found.counts.tolist() == [3]
    assert found.predicted[0] == pytest.approx((0.3 + 0.6 + 0.9) / 3)
