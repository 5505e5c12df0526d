"""Least squares of a number that is standardized by the training part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks.likelihoods import Objective
from slpd_toolkit.mil.tasks.readouts import LinearModel, Readout

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.tasks.readouts import VoteRule


@dataclass(frozen=True, eq=False)
class LeastSquares(Objective):
    """Squared error of standardized values; predictions are in the unit of the target."""

    vote_rule: ClassVar[VoteRule] = "mean"
    outputs = 1
    labels = None

    targets: Tensor
    """(N,) standardized values."""
    mean: float
    """Of the training part."""
    sd: float
    """Of the training part."""

    @classmethod
    def of(cls, values: FloatArray, train: IntArray) -> Self:
        """Standardize (N,) values by those of the training rows.

        Raises:
            UsageError: All training values are equal.
        """
        mean, sd = float(values[train].mean()), float(values[train].std())
        if not sd > 0:
            raise UsageError(f"All values of a training part are {mean:g}.", hint="Use other folds.")
        return cls(torch.tensor((values - mean) / sd, dtype=torch.float32), mean, sd)

    @property
    def readout(self) -> Readout:
        """Values in the unit of the target."""
        return Readout("identity", offset=self.mean, scale=self.sd)

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, 1) -> (B,)."""
        return (logits[:, 0] - self.targets[rows]) ** 2

    def votes(self, rows: Tensor) -> Tensor:
        """Return the standardized values, (n, 1)."""
        return self.targets[rows].unsqueeze(1)

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> LinearModel:
        """Fit a ridge regression."""
        from sklearn.linear_model import Ridge

        model = Ridge(1 / (2 * inverse_penalty)).fit(known, self.targets[rows].double().numpy())
        return LinearModel(model.coef_[:, None], np.array([model.intercept_]))
