from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slpd_toolkit.mil.bundle.decision import Decision, decision_of
from slpd_toolkit.mil.tasks.temperature import HIGHEST, LOWEST, fit_temperature

NONE = np.full(3, np.nan)


def test_decisions() -> None:
    two = np.array([[0.65, 0.35], [0.7, 0.3], [0.2, 0.8]])
    assert Decision("threshold", ("a", "b"), 0.35).decide(two, NONE) == ["b", "a", "b"]
    three = np.array([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    assert decision_of("softmax", "abc").decide(three, NONE) == ["a", "b", "c"]
    assert decision_of("ordered-classes", "abc").decide(three, NONE) == ["b", "b", "c"]
    assert decision_of("risk", ()).decide(three, np.array([0.2, 0.5, 0.9])) == ["low risk", "high risk", "high risk"]
    assert decision_of("identity", ()).decide(three, NONE) == ["0.4", "0.2", "0.1"]


@pytest.mark.parametrize("planted", [0.5, 2.0, 4.0])
def test_the_temperature_that_was_planted_is_found(planted: float) -> None:
    rng = np.random.default_rng(0)
    calibrated = rng.normal(size=(4000, 3)) * 2
    targets = torch.tensor([rng.choice(3, p=p) for p in torch.tensor(calibrated).softmax(1).numpy()])
    found = fit_temperature(calibrated * planted, lambda logits: F.cross_entropy(logits, targets, reduction="none"))
    assert found == pytest.approx(planted, rel=0.1)


def test_the_temperature_stays_within_limits_and_is_1_without_slides() -> None:
    logits, targets = np.array([[9.0, 0], [0, 9]]), torch.tensor([0, 1])
    right = fit_temperature(logits / 9, lambda each: F.cross_entropy(each, targets, reduction="none"))
    wrong = fit_temperature(logits, lambda each: F.cross_entropy(each, 1 - targets, reduction="none"))
    assert right == pytest.approx(LOWEST, rel=0.01)
    assert wrong == pytest.approx(HIGHEST, rel=0.01)
    assert fit_temperature(np.zeros((0, 2)), lambda each: each.sum(dim=1)) == 1.0
