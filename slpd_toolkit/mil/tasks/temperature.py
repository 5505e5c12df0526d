"""Temperature scaling: one number that calibrates the confidence of a head on its validation part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from scipy.optimize import minimize_scalar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray

LOWEST, HIGHEST = 0.1, 10.0
"""Limits of the temperature; it would become 0 for a validation part that is separated without errors."""


def fit_temperature(logits: FloatArray, loss: Callable[[Tensor], Tensor]) -> float:
    """Return the temperature T that minimizes the mean loss of logits / T (Guo et al., ICML 2017).

    Args:
        logits: (v, outputs) logits of the validation part.
        loss: Maps logits (v, outputs) to the loss of each slide, (v,).
    """
    if not len(logits):
        return 1.0
    values = torch.from_numpy(logits)

    def mean_loss(log_temperature: float) -> float:
        return float(loss(values / math.exp(log_temperature)).mean())

    found = minimize_scalar(mean_loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    temperature = math.exp(float(found.x))
    return temperature if mean_loss(float(found.x)) < mean_loss(0.0) else 1.0
