from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks.hazards import class_probabilities, hazard_loss, survival_curve, time_bin_edges, time_bins

LOGITS = torch.tensor([[0.3, -1.2, 2.0], [-0.5, 0.1, 0.7], [1.5, -0.3, 0.2], [0.0, 0.4, -2.0]])


def test_the_loss_is_the_likelihood_written_out_case_by_case() -> None:
    """The formula of MCAT: stopped in k: -log S(k - 1) - log h(k); censored in k: -log S(k)."""
    interval, stopped = torch.tensor([0, 2, 1, 2]), torch.tensor([True, True, False, False])
    h = torch.sigmoid(LOGITS).tolist()
    expected = [
        -math.log(h[0][0]),
        -math.log((1 - h[1][0]) * (1 - h[1][1])) - math.log(h[1][2]),
        -math.log((1 - h[2][0]) * (1 - h[2][1])),
        -math.log((1 - h[3][0]) * (1 - h[3][1]) * (1 - h[3][2])),
    ]
    assert hazard_loss(LOGITS, interval, stopped).tolist() == pytest.approx(expected)


def test_without_censoring_the_loss_is_minus_the_log_of_the_class_probability() -> None:
    """Of ordered classes 0 to 3 the highest has passed all three thresholds."""
    probabilities = class_probabilities(LOGITS)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(4))
    for label in range(4):
        interval, stopped = torch.full((4,), min(label, 2)), torch.full((4,), label < 3)
        torch.testing.assert_close(hazard_loss(LOGITS, interval, stopped), -probabilities[:, label].log())


def test_extreme_logits_keep_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = hazard_loss(logits, torch.tensor([1]), torch.tensor([True])).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(400)
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_the_survival_curve_is_the_product_of_passing() -> None:
    h = torch.sigmoid(LOGITS[0]).tolist()
    expected = [1 - h[0], (1 - h[0]) * (1 - h[1]), (1 - h[0]) * (1 - h[1]) * (1 - h[2])]
    assert survival_curve(LOGITS)[0].tolist() == pytest.approx(expected)


def test_bins_hold_equally_many_events_and_ignore_censored_times() -> None:
    rng = np.random.default_rng(0)
    times = np.concatenate([rng.exponential(size=400), np.full(300, 50.0)])
    events = np.arange(700) < 400
    edges = time_bin_edges(times, events, 4)
    assert np.bincount(time_bins(times[events], edges)).tolist() == [100, 100, 100, 100]


def test_a_time_on_an_edge_opens_the_next_bin_and_times_beyond_the_training_part_fall_into_the_outer_bins() -> None:
    edges = time_bin_edges(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5, bool), 2)
    assert edges.tolist() == [3.0]
    assert time_bins(np.array([0.0, 2.999, 3.0, 99.0]), edges).tolist() == [0, 0, 1, 1]


def test_equal_event_times_merge_bins() -> None:
    assert time_bin_edges(np.array([2.0, 2.0, 2.0, 7.0]), np.ones(4, bool), 4).tolist() == [2.0, 3.25]


def test_a_training_part_without_events_is_refused() -> None:
    with pytest.raises(UsageError, match="A training part has no events"):
        time_bin_edges(np.array([1.0]), np.array([False]), 4)
