"""Late fusion of logits."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.mil.heads.fusion import fit_fusion


def simulated(cases: int, informative: tuple[bool, bool]) -> tuple[np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, cases)
    scores = [rng.normal(size=cases) + 1.5 * labels * each for each in informative]
    return np.stack([np.stack([-score, score], axis=1) for score in scores]), torch.tensor(labels)


def test_independent_models_are_added_and_noise_has_no_weight() -> None:
    logits, labels = simulated(4000, (True, True))
    fused = fit_fusion(logits, lambda values: F.cross_entropy(values, labels, reduction="none"))
    np.testing.assert_allclose(fused.weights, [0.75, 0.75], atol=0.08)  # log odds: 1.5 per unit of each score
    logits, labels = simulated(4000, (True, False))
    fused = fit_fusion(logits, lambda values: F.cross_entropy(values, labels, reduction="none"))
    assert fused.weights[1] < 0.05 < fused.weights[0]


def test_a_model_that_is_wrong_is_not_turned_round_and_separated_cases_keep_finite_weights() -> None:
    logits, labels = simulated(60, (True, True))
    fused = fit_fusion(
        np.stack([-logits[0], 100 * (np.eye(2)[labels] - 0.5)]),
        lambda values: F.cross_entropy(values, labels, reduction="none"),
    )
    assert fused.weights[0] == 0
    assert 0 < fused.weights[1] * 100 < 50
    assert fused(np.zeros((2, 3, 2))).shape == (3, 2)
