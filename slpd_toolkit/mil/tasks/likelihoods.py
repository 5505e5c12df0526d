"""Training objectives of heads: likelihoods of a task's targets, including class weights.

An objective contains the targets of all N slides, encoded with class weights or time bins from the training part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.mil.tasks.hazards import hazard_loss, stops_and_passes
from slpd_toolkit.mil.tasks.readouts import LinearModel, Readout, logits_of_votes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.tasks.readouts import VoteRule
    from slpd_toolkit.mil.tasks.survival_metrics import SurvivalGrid

MOST_ITERATIONS = 2000
# Indicator columns of intervals have this large value, so that the penalty hardly affects their coefficients.
_INTERVAL_SCALE = 10.0


class Objective(ABC):
    """Loss and predictions of one kind of target."""

    outputs: int
    """Number of logits per slide."""
    labels: Tensor | None
    """(N,) class indices, if the target has classes."""
    vote_rule: ClassVar[VoteRule]
    """Conversion of the mean votes of slides to logits."""

    @property
    @abstractmethod
    def readout(self) -> Readout:
        """Return the conversion of logits to the input of the task's metrics."""

    @abstractmethod
    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Compute the loss of B slides from logits (B, outputs) and positions (B,): (B,)."""

    @abstractmethod
    def votes(self, rows: Tensor) -> Tensor:
        """Return the contribution of each slide to a mixture's estimate, (n, E); see `readouts.logits_of_votes`."""

    def estimate(self, shares: Tensor, rows: Tensor) -> Tensor:
        """Return the logits with the lowest loss for mixtures of slides, as predicted by nearest neighbors.

        Args:
            shares: (Q, n) weights of the n slides in Q mixtures.
            rows: (n,) positions of these slides.

        Returns:
            (Q, outputs)
        """
        return logits_of_votes(self.vote_rule, shares @ self.votes(rows))

    @abstractmethod
    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> LinearModel:
        """Fit an L2-penalized linear model.

        Args:
            known: (n, D) standardized embeddings of the training slides.
            rows: (n,) positions of these slides.
            inverse_penalty: Weight of the summed loss relative to half the squared norm of the coefficients.
        """

    def predict(self, logits: Tensor) -> Tensor:
        """Convert logits (B, outputs) to the input of the task's metrics, such as class probabilities or risks."""
        return self.readout(logits)


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

    vote_rule: ClassVar[VoteRule] = "log"

    labels: Tensor
    """(N,) class indices."""
    weights: Tensor
    """(N,) weight of each slide, mean 1 over the training part."""
    outputs: int

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, C) -> (B,)."""
        return F.cross_entropy(logits, self.labels[rows], reduction="none") * self.weights[rows]

    @property
    def readout(self) -> Readout:
        """Class probabilities."""
        return Readout("softmax")

    def votes(self, rows: Tensor) -> Tensor:
        """Return each slide's weight in its class, (n, C)."""
        return F.one_hot(self.labels[rows], self.outputs) * self.weights[rows].unsqueeze(1)

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> LinearModel:
        """Fit a logistic regression."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=inverse_penalty, max_iter=MOST_ITERATIONS)
        model.fit(known, self.labels[rows].numpy(), sample_weight=self.weights[rows].numpy())

        coefficients, intercepts = model.coef_.T, model.intercept_
        if len(intercepts) == 1:  # for two classes, scikit-learn has only the logit of the second class
            coefficients = np.hstack([np.zeros_like(coefficients), coefficients])
            intercepts = np.append(0.0, intercepts)
        return LinearModel(coefficients, intercepts)


@dataclass(frozen=True, eq=False)
class Hazards(Objective):
    """Weighted likelihood of discrete hazards, for ordered classes (with labels) or survival (without)."""

    vote_rule: ClassVar[VoteRule] = "log-odds"

    interval: Tensor
    """(N,) interval in which each slide stopped or was censored."""
    stopped: Tensor
    """(N,) bool."""
    weights: Tensor
    """(N,) weight of each slide, mean 1 over the training part."""
    outputs: int
    labels: Tensor | None
    grid: SurvivalGrid | None = None
    """Times of the survival probabilities, for survival."""

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, J) -> (B,)."""
        return hazard_loss(logits, self.interval[rows], self.stopped[rows]) * self.weights[rows]

    @property
    def readout(self) -> Readout:
        """Class probabilities, or risks and survival probabilities at the evaluation times."""
        return Readout("risk", self.grid) if self.labels is None else Readout("ordered-classes")

    def votes(self, rows: Tensor) -> Tensor:
        """Return a row of a life table per slide, (n, 2 J): the interval where it stops, and those it passes."""
        stops, passes = stops_and_passes(self.interval[rows], self.stopped[rows], self.outputs)
        return torch.cat([stops, passes], dim=1) * self.weights[rows].unsqueeze(1)

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> LinearModel:
        """Fit a logistic regression on the person-period table, with a row for each interval that a slide reached.

        Each interval has an intercept (Singer & Willett, J Educ Stat 1993;18:155).
        """
        from sklearn.linear_model import LogisticRegression

        stops, passes = stops_and_passes(self.interval[rows], self.stopped[rows], self.outputs)
        slide, interval = torch.nonzero(stops + passes, as_tuple=True)
        intercepts = _INTERVAL_SCALE * F.one_hot(interval, self.outputs).numpy()
        model = LogisticRegression(C=inverse_penalty, max_iter=MOST_ITERATIONS, fit_intercept=False)
        model.fit(
            np.hstack([known[slide.numpy()], intercepts]),
            stops[slide, interval].numpy(),
            sample_weight=self.weights[rows][slide].numpy(),
        )
        slopes, levels = np.split(model.coef_[0], [known.shape[1]])

        return LinearModel(np.repeat(slopes[:, None], self.outputs, axis=1), _INTERVAL_SCALE * levels)
