from __future__ import annotations

import math

import numpy as np
import pytest

from slpd_toolkit.mil.tasks.concordance import concordance_index
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.survival_metrics import (
    Censoring,
    SurvivalGrid,
    evaluation_times,
    integrated_brier_score,
    observed_to_expected,
    uno_concordance,
)

GRID = np.array([2.0, 4.0, 6.0, 9.0, 12.0])


def cohort(patients: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times with ties, events, risks and survival curves."""
    rng = np.random.default_rng(3)
    event = np.round(rng.exponential(10, patients), 1) + 0.1
    censored = np.round(rng.exponential(15, patients), 1) + 0.15
    risks = -event + rng.normal(0, 8, patients)
    curves = np.exp(-GRID / 10 * np.exp(0.3 * rng.normal(size=patients))[:, None])
    return np.minimum(event, censored), event <= censored, risks, curves


def once(times: np.ndarray) -> np.ndarray:
    return np.ones((1, len(times)))


def test_they_are_scikit_survivals_values() -> None:
    """Printed by scikit-survival 0.28.0 for these patients: concordance_index_censored, _ipcw (tau 12), and
    integrated_brier_score, all with the censoring of the same patients."""
    times, events, risks, curves = cohort()
    censoring = Censoring.of(times, events)
    assert concordance_index(times, events, risks) == pytest.approx(0.7689260563380281, abs=1e-12)
    # scikit-survival counts events before tau, here those up to it count.
    uno = uno_concordance(times, events, risks, once(times), censoring, np.nextafter(12, 0))
    assert uno[0] == pytest.approx(0.7562174409241462, abs=1e-12)
    brier = integrated_brier_score(times, events, curves, once(times), censoring, GRID)
    assert brier[0] == pytest.approx(0.22104819469728162, abs=1e-12)


def test_without_censoring_uno_is_harrell_and_the_brier_score_is_a_mean_square() -> None:
    times, _, risks, curves = cohort()
    events = np.ones(len(times), dtype=np.bool_)
    censoring = Censoring.of(times, events)
    uno = uno_concordance(times, events, risks, once(times), censoring, times.max())
    assert uno[0] == pytest.approx(concordance_index(times, events, risks))
    errors = ((times[:, None] > GRID) - curves) ** 2
    expected = np.trapezoid(errors.mean(axis=0), GRID) / 10
    assert integrated_brier_score(times, events, curves, once(times), censoring, GRID)[0] == pytest.approx(expected)


def test_a_weight_is_a_copy() -> None:
    times, events, risks, curves = cohort(30)
    counts = np.random.default_rng(0).integers(0, 3, size=(4, 30))
    censoring = Censoring.of(times, events)
    for weights in counts:
        copies = np.repeat(np.arange(30), weights)
        many, few = weights[None].astype(float), once(copies)
        of_copies = times[copies], events[copies]
        pairs = (
            (
                uno_concordance(times, events, risks, many, censoring, 12.0),
                uno_concordance(*of_copies, risks[copies], few, censoring, 12.0),
            ),
            (
                integrated_brier_score(times, events, curves, many, censoring, GRID),
                integrated_brier_score(*of_copies, curves[copies], few, censoring, GRID),
            ),
            (
                observed_to_expected(times, events, curves, many, GRID),
                observed_to_expected(*of_copies, curves[copies], few, GRID),
            ),
        )
        for weighted, copied in pairs:
            np.testing.assert_allclose(weighted, copied)


def test_observed_over_expected_is_1_for_the_truth_and_the_hazard_ratio_for_others() -> None:
    rng = np.random.default_rng(0)
    event, censored = rng.exponential(10, 20_000), rng.exponential(20, 20_000)
    times, events = np.minimum(event, censored), event <= censored
    grid = np.linspace(0.5, 15, 30)
    for rate, expected in ((0.1, 1.0), (0.2, 0.5)):
        curves = np.tile(np.exp(-rate * grid), (20_000, 1))
        found = observed_to_expected(times, events, curves, once(times), grid)[0]
        assert found == pytest.approx(expected, rel=0.03)


def test_evaluation_stops_where_few_are_uncensored() -> None:
    times, events, _, _ = cohort()
    grid = evaluation_times(times, events)
    assert 1 <= len(grid) <= 16
    assert (np.diff(grid) > 0).all()
    assert Censoring.of(times, events).up_to(grid).min() >= 0.1
    early = np.append(np.full(50, 1.0), 2.0)
    assert evaluation_times(early, np.append(np.zeros(50, dtype=np.bool_), True)).tolist() == [2.0]


def test_curves_are_linear_within_a_bin_and_constant_after_the_last() -> None:
    grid = SurvivalGrid(np.array([0.0, 2.0, 6.0, 10.0]), np.array([1.0, 2.0, 4.0, 10.0, 50.0]))
    curves = grid.interpolate(np.array([[0.8, 0.4, 0.2]]))
    np.testing.assert_allclose(curves, [[0.9, 0.8, 0.6, 0.2, 0.2]])


def test_the_task_reports_all_four_and_the_order_alone_where_there_are_only_risks() -> None:
    times, events, risks, _ = cohort()
    task = Survival(times, events)
    curves = np.tile(np.exp(-task.grid / 10), (80, 1))
    found = task.metrics(np.arange(80), np.hstack([risks[:, None], curves]))
    assert set(found) == set(task.known_metrics)
    assert all(math.isfinite(value) for value in found.values())
    assert found["c_index"] == pytest.approx(0.7689260563380281)
    assert set(task.metrics(np.arange(80), risks[:, None])) == {"c_index", "uno_c_index"}
