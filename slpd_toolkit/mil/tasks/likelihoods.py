"""What heads are trained on: the likelihood of a task's targets, class weights included.

A likelihood has the targets of all N slides, encoded by what the training part told (weights, time bins), and gives

    loss      (B, outputs) logits of B slides to (B,) losses,
    estimate  the logits of least loss for mixtures of training slides, which is what neighbours predict,
    predict   logits to what a task judges: (B, C) class probabilities, or (B, 1) risks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from slpd_toolkit.mil.tasks.hazards import class_probabilities, hazard_loss, stops_and_passes, survival_curve

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_SHARE = 1e-4


@dataclass(frozen=True, eq=False)
class CrossEntropy:
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
        """(Q, n) shares of n slides -> (Q, C) log of each class's weighted share."""
        of_class = F.one_hot(self.labels[rows], self.outputs) * self.weights[rows].unsqueeze(1)
        return (shares @ of_class).clamp(min=_LEAST_SHARE).log()

    def predict(self, logits: Tensor) -> Tensor:
        """(B, C) -> (B, C) probabilities."""
        return logits.softmax(dim=1)


@dataclass(frozen=True, eq=False)
class Hazards:
    """Weighted likelihood of discrete hazards, for ordered classes (with labels) or survival (without)."""

    interval: Tensor
    """(N,) interval in which each slide stopped or was censored."""
    stopped: Tensor
    """(N,) bool."""
    weights: Tensor
    """(N,) weight of each slide, mean 1 over the training part."""
    outputs: int
    labels: Tensor | None

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, J) -> (B,)."""
        return hazard_loss(logits, self.interval[rows], self.stopped[rows]) * self.weights[rows]

    def estimate(self, shares: Tensor, rows: Tensor) -> Tensor:
        """(Q, n) shares of n slides -> (Q, J) log odds of stopping: a life table of each mixture."""
        stops, passes = stops_and_passes(self.interval[rows], self.stopped[rows], self.outputs)
        weighted = shares * self.weights[rows]
        odds = [(weighted @ each).clamp(min=_LEAST_SHARE).log() for each in (stops, passes)]
        return odds[0] - odds[1]

    def predict(self, logits: Tensor) -> Tensor:
        """(B, J) -> (B, C) class probabilities, or (B, 1) risks: minus the expected number of bins survived."""
        if self.labels is not None:
            return class_probabilities(logits)
        return -survival_curve(logits).sum(dim=1, keepdim=True)


Objective = CrossEntropy | Hazards
