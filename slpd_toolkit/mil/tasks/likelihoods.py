"""Training objectives of heads: likelihoods of a task's targets, including class weights.

An objective contains the targets of all N slides, encoded with class weights or time bins from the training part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.mil.tasks.hazards import class_probabilities, hazard_loss, stops_and_passes, survival_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.tasks.survival_metrics import SurvivalGrid

    Fitted = Callable[[FloatArray], Tensor]
    """(n, D) standardized embeddings -> (n, outputs) logits."""

_LEAST_SHARE = 1e-4
_MOST_ITERATIONS = 2000
# Indicator columns of intervals have this large value, so that the penalty hardly affects their coefficients.
_INTERVAL_SCALE = 10.0


class Objective(ABC):
    """Loss and predictions of one kind of target."""

    outputs: int
    """Number of logits per slide."""
    labels: Tensor | None
    """(N,) class indices, if the target has classes."""

    @abstractmethod
    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Compute the loss of B slides from logits (B, outputs) and positions (B,): (B,)."""

    @abstractmethod
    def estimate(self, shares: Tensor, rows: Tensor) -> Tensor:
        """Return the logits of least loss for mixtures of slides, which is what nearest neighbors predict.

        Args:
            shares: (Q, n) weights of the n slides in Q mixtures.
            rows: (n,) positions of these slides.

        Returns:
            (Q, outputs)
        """

    @abstractmethod
    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> Fitted:
        """Fit an L2-penalized linear model.

        Args:
            known: (n, D) standardized embeddings of the training slides.
            rows: (n,) positions of these slides.
            inverse_penalty: Weight of the summed loss relative to half the squared norm of the coefficients.
        """

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Convert logits (B, outputs) to the input of the task's metrics, such as class probabilities or risks."""


def balance_classes(classes: Sequence[str], targets: IntArray, train: IntArray) -> tuple[Tensor, Tensor]:
    """Return labels and weights that balance the classes in the training part.

    Args:
        classes: Names of the C classes.
        targets: (N,) class index of each slide.
        train: Rows of the training part.

    Returns:
        The labels, (N,), and the weight of each slide, (N,).

    Raises:
        UsageError: A class has no training slide.
    """
    counts = np.bincount(targets[train], minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent:
        raise UsageError(
            f"A training part has no slides of {listed(absent)}.", hint="Use other folds, or exclude this class."
        )
    balance = len(train) / (len(classes) * counts)
    return torch.tensor(targets), torch.tensor(balance[targets]).float()


@dataclass(frozen=True, eq=False)
class CrossEntropy(Objective):
    """Weighted cross entropy of C classes."""

    labels: Tensor
    """(N,) class indices."""
    weights: Tensor
    """(N,) weight of each slide, mean 1 over the training part."""
    outputs: int

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, C) -> (B,)."""
        return F.cross_entropy(logits, self.labels[rows], reduction="none") * self.weights[rows]

    def estimate(self, shares: Tensor, rows: Tensor) -> Tensor:
        """Return the log of each class's weighted share: (Q, n) shares of n slides -> (Q, C)."""
        of_class = F.one_hot(self.labels[rows], self.outputs) * self.weights[rows].unsqueeze(1)
        return (shares @ of_class).clamp(min=_LEAST_SHARE).log()

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> Fitted:
        """Fit a logistic regression."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=inverse_penalty, max_iter=_MOST_ITERATIONS)
        model.fit(known, self.labels[rows].numpy(), sample_weight=self.weights[rows].numpy())

        def fitted(embeddings: FloatArray) -> Tensor:
            scores = torch.tensor(model.decision_function(embeddings), dtype=torch.float32)
            # For two classes, scikit-learn returns only the logit of the second class.
            return scores if scores.ndim == 2 else torch.stack([torch.zeros_like(scores), scores], dim=1)

        return fitted

    def predict(self, logits: Tensor) -> Tensor:
        """Return class probabilities: (B, C) -> (B, C)."""
        return logits.softmax(dim=1)


@dataclass(frozen=True, eq=False)
class Hazards(Objective):
    """Weighted likelihood of discrete hazards, for ordered classes (with labels) or survival (without)."""

    interval: Tensor
    """(N,) interval in which each slide stopped or was censored."""
    stopped: Tensor
    """(N,) bool."""
    weights: Tensor
    """(N,) weight of each slide, mean 1 over the training part."""
    outputs: int
    labels: Tensor | None
    grid: SurvivalGrid | None = None
    """Where survival probabilities are reported, for survival."""

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, J) -> (B,)."""
        return hazard_loss(logits, self.interval[rows], self.stopped[rows]) * self.weights[rows]

    def estimate(self, shares: Tensor, rows: Tensor) -> Tensor:
        """Return the log odds of stopping, a life table of each mixture: (Q, n) shares of n slides -> (Q, J)."""
        stops, passes = stops_and_passes(self.interval[rows], self.stopped[rows], self.outputs)
        weighted = shares * self.weights[rows]
        odds = [(weighted @ each).clamp(min=_LEAST_SHARE).log() for each in (stops, passes)]
        return odds[0] - odds[1]

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> Fitted:
        """Fit a logistic regression on the person-period table, with a row for each interval that a slide reached.

        Each interval has an intercept (Singer & Willett, J Educ Stat 1993;18:155).
        """
        from sklearn.linear_model import LogisticRegression

        stops, passes = stops_and_passes(self.interval[rows], self.stopped[rows], self.outputs)
        slide, interval = torch.nonzero(stops + passes, as_tuple=True)
        intercepts = _INTERVAL_SCALE * F.one_hot(interval, self.outputs).numpy()
        model = LogisticRegression(C=inverse_penalty, max_iter=_MOST_ITERATIONS, fit_intercept=False)
        model.fit(
            np.hstack([known[slide.numpy()], intercepts]),
            stops[slide, interval].numpy(),
            sample_weight=self.weights[rows][slide].numpy(),
        )
        slopes, levels = np.split(model.coef_[0], [known.shape[1]])

        def fitted(embeddings: FloatArray) -> Tensor:
            logits = (embeddings @ slopes)[:, None] + _INTERVAL_SCALE * levels
            return torch.tensor(logits, dtype=torch.float32)

        return fitted

    def predict(self, logits: Tensor) -> Tensor:
        """Return class probabilities, (B, C), or risks and survival probabilities at G evaluation times, (B, 1 + G).

        The risk is minus the expected number of bins survived. Without a grid, only risks are returned.
        """
        if self.labels is not None:
            return class_probabilities(logits)
        survival = survival_curve(logits)
        risks = -survival.sum(dim=1, keepdim=True)
        if self.grid is None:
            return risks
        curves = torch.from_numpy(self.grid.interpolate(survival.double().numpy())).to(risks.dtype)
        return torch.cat([risks, curves], dim=1)
