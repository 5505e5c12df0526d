"""Objective of several binary labels per slide, some of which may be unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.mil.tasks.likelihoods import MOST_ITERATIONS, Objective
from slpd_toolkit.mil.tasks.readouts import LinearModel, Readout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.tasks.readouts import VoteRule

UNKNOWN = -1
"""Target of a slide without a label."""


@dataclass(frozen=True, eq=False)
class SeveralLabels(Objective):
    """Weighted binary cross entropy of L labels, one output each; unknown labels do not count."""

    vote_rule: ClassVar[VoteRule] = "log-odds"
    labels = None

    targets: Tensor
    """(N, L) 1 or 0; any number where the label is unknown."""
    weights: Tensor
    """(N, L) weight of each label, 0 if it is unknown; mean 1 over the known ones of the training part."""
    outputs: int

    @classmethod
    def of(cls, names: Sequence[str], targets: IntArray, train: IntArray) -> Self:
        """Balance both values of each label over the training rows.

        Args:
            names: (L,) for messages.
            targets: (N, L) 1, 0 or `UNKNOWN`.
            train: Training rows.

        Raises:
            UsageError: A label has the same value on all training slides.
        """
        counts = np.stack([(targets[train] == value).sum(axis=0) for value in (0, 1)])
        constant = [name for name, lowest in zip(names, counts.min(axis=0), strict=True) if not lowest]
        if constant:
            raise UsageError(
                f"A training part has only one value of {listed(constant)}.", hint="Use other folds, or fewer targets."
            )
        of_value = counts.sum(axis=0) / (2 * counts)
        weights = np.where(targets == 1, of_value[1], of_value[0]) * (targets != UNKNOWN)
        return cls(torch.tensor(targets).float().clamp(min=0), torch.tensor(weights).float(), targets.shape[1])

    @property
    def readout(self) -> Readout:
        """A probability per label."""
        return Readout("labels")

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, L) -> (B,), mean over the L labels."""
        of_labels = F.binary_cross_entropy_with_logits(
            logits, self.targets[rows].to(logits.dtype), self.weights[rows].to(logits.dtype), reduction="none"
        )
        return of_labels.mean(dim=1)

    def votes(self, rows: Tensor) -> Tensor:
        """Return the weight of each slide for and against each label, (n, 2 L)."""
        targets, weights = self.targets[rows], self.weights[rows]
        return torch.cat([targets * weights, (1 - targets) * weights], dim=1)

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> LinearModel:
        """Fit a logistic regression per label."""
        from sklearn.linear_model import LogisticRegression

        coefficients, intercepts = [], []
        for label in range(self.outputs):
            weights = self.weights[rows, label].numpy()
            members = weights > 0
            model = LogisticRegression(C=inverse_penalty, max_iter=MOST_ITERATIONS)
            model.fit(known[members], self.targets[rows, label].numpy()[members], sample_weight=weights[members])
            coefficients.append(model.coef_[0])
            intercepts.append(model.intercept_[0])
        return LinearModel(np.stack(coefficients, axis=1), np.array(intercepts))
