"""What a head is trained on: the likelihood of a task's targets, class weights included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch.nn import functional as F

from slpd_toolkit.mil.hazards import class_probabilities, hazard_loss, survival_curve

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """What a head is trained on. Holds nothing of val or test but their encoded targets."""

    @property
    def outputs(self) -> int:
        """Number of logits a head gives."""

    @property
    def labels(self) -> Tensor | None:
        """(N,) class index of every slide, or None where the task has no classes."""

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, outputs) logits of these B slides -> (B,) losses, weighted against class imbalance."""

    def predict(self, logits: Tensor) -> Tensor:
        """(B, outputs) logits -> what `Task.metrics` judges: (B, C) probabilities, or (B, 1) risks."""


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

    def predict(self, logits: Tensor) -> Tensor:
        """(B, J) -> (B, C) class probabilities, or (B, 1) risks: minus the expected number of bins survived."""
        if self.labels is not None:
            return class_probabilities(logits)
        return -survival_curve(logits).sum(dim=1, keepdim=True)
