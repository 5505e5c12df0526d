from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from slpd_toolkit.mil.tasks.thresholds import choose_threshold, sensitivity_threshold, youden_threshold


def test_youdens_threshold_is_that_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    scores = 1 / (1 + np.exp(-(rng.normal(size=300) + 1.2 * positive)))
    false, true, _ = roc_curve(positive, scores)
    cut = youden_threshold(positive, scores)
    gain = (scores[positive] >= cut).mean() - (scores[~positive] >= cut).mean()
    assert gain == pytest.approx((true - false).max())


def test_a_perfect_separation_is_cut_in_the_gap_and_one_class_at_a_half() -> None:
    positive, scores = np.array([False, True, True]), np.array([0.1, 0.7, 0.9])
    assert youden_threshold(positive, scores) == pytest.approx(0.4)
    assert youden_threshold(np.ones(3, bool), scores) == 0.5


@pytest.mark.parametrize("wanted", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_a_wanted_sensitivity_is_the_first_point_of_scikit_learns_curve_that_reaches_it(wanted: float) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.random(300) + 0.3 * positive.astype(np.float64), 2)  # with ties
    false, true, cuts = roc_curve(positive, scores, drop_intermediate=False)
    first = np.flatnonzero(true >= wanted - 1e-12)[0]
    cut = sensitivity_threshold(positive, scores, wanted)
    assert (scores[positive] >= cut).mean() == pytest.approx(true[first])
    assert (scores[~positive] >= cut).mean() == pytest.approx(false[first])
    assert cut <= cuts[first]
    assert choose_threshold(positive, scores, wanted) == cut


def test_the_threshold_of_a_sensitivity_without_positives_or_lower_scores() -> None:
    assert sensitivity_threshold(np.zeros(2, bool), np.array([0.2, 0.7], np.float64), 0.9) == 0.5
    assert sensitivity_threshold(np.ones(2, bool), np.array([0.2, 0.7], np.float64), 1.0) == 0.2
    assert choose_threshold(np.array([False, True]), np.array([0.1, 0.9])) == 0.5
