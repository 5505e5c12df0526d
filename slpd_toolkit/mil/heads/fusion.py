"""Late fusion: a weighted sum of the logits of two models, with weights from the validation part.

Neither model was trained on the validation part, so that a model that fits its training slides too well gets no
excessive weight, as it would on the training part. (Stacking: Wolpert, Neural Networks 1992;5:241; weights of 0 or
more: Breiman, Machine Learning 1996;24:49.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray


@dataclass(frozen=True, eq=False)
class Fusion:
    """Logits of M models to fused logits."""

    weights: FloatArray
    """(M,) weight of each model, 0 or more."""
    offsets: FloatArray
    """(outputs,)"""

    def __call__(self, logits: FloatArray) -> FloatArray:
        """Fuse logits (M, n, outputs) to (n, outputs)."""
        fused: FloatArray = np.tensordot(self.weights, logits, axes=1) + self.offsets
        return fused


def fit_fusion(logits: FloatArray, loss: Callable[[Tensor], Tensor]) -> Fusion:
    """Fit weights and offsets by the loss of v slides, with a small penalty on their squares.

    The penalty is that of v + 1 times a mean loss and half the squared parameters, for logits of unit standard
    deviation; it matters only if a model separates the slides without error.

    Args:
        logits: (M, v, outputs) of each model.
        loss: Maps logits (v, outputs) to the loss of each slide, (v,).
    """
    models, cases, outputs = logits.shape
    spread = np.maximum(logits.std(axis=1).mean(axis=1), 1e-9)
    values = torch.from_numpy(logits / spread[:, None, None])

    def penalized(parameters: FloatArray) -> tuple[float, FloatArray]:
        free = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
        fused = torch.tensordot(free[:models], values, dims=1) + free[models:]
        total = loss(fused).mean() + (free**2).sum() / (2 * (cases + 1))
        (gradient,) = torch.autograd.grad(total, free)
        return total.item(), gradient.numpy()

    bounds = [(0.0, None)] * models + [(None, None)] * outputs
    start = np.concatenate([np.full(models, 1 / models), np.zeros(outputs)])
    found = minimize(penalized, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Fusion(found[:models] / spread, found[models:])
