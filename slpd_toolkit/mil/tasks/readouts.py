"""Conversion of logits to outputs, and of votes of neighbors to logits, without the targets of the training.

Used by objectives and by stored heads, whose predictions need no targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from slpd_toolkit.mil.tasks.hazards import class_probabilities, survival_curve

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.tasks.survival_metrics import SurvivalGrid

ReadoutKind = Literal["softmax", "ordered-classes", "risk", "identity", "labels"]
READOUT_KINDS: tuple[str, ...] = get_args(ReadoutKind)
VoteRule = Literal["log", "log-odds", "mean"]
VOTE_RULES: tuple[str, ...] = get_args(VoteRule)
_LEAST_SHARE = 1e-4
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Readout:
    """Converts logits (B, outputs) to the inputs of metrics and tables."""

    kind: ReadoutKind
    """`softmax`: class probabilities, (B, C). `ordered-classes`: hazard logits to class probabilities, (B, outputs +
    1). `risk`: hazard logits to minus the expected number of bins survived, and survival probabilities at G times, (B,
    1 + G). `identity`: the logits, times `scale` plus `offset`. `labels`: a probability per logit, (B, outputs)."""
    grid: SurvivalGrid | None = None
    """Times of the survival probabilities; only for `risk`, and None for risks only."""
    offset: float = 0.0
    """Only for `identity`."""
    scale: float = 1.0
    """Only for `identity`."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the outputs of each row; see `kind`."""
        if self.kind == "softmax":
            return logits.softmax(dim=1)
        if self.kind == "labels":
            return torch.sigmoid(logits)
        if self.kind == "ordered-classes":
            return class_probabilities(logits)
        if self.kind == "identity":
            return logits.double() * self.scale + self.offset  # values may be far from 0 and close to one another
        survival = survival_curve(logits)
        risks = -survival.sum(dim=1, keepdim=True)
        if self.grid is None:
            return risks
        curves = torch.from_numpy(self.grid.interpolate(survival.double().numpy())).to(risks.dtype)
        return torch.cat([risks, curves], dim=1)

    def one_by_one(self, logits: Tensor) -> FloatArray:
        """Return the outputs of each row as float64, bit-identical whatever the other rows are.

        Vectorized functions round rows differently depending on their position in a vector register.
        """
        return torch.cat([self(row[None]) for row in logits]).double().numpy()


def logits_of_votes(rule: VoteRule, votes: Tensor) -> Tensor:
    """Return the logits with the lowest loss for mixtures of slides, from their mean votes.

    Args:
        rule: `log`: logarithm of the fraction of each class. `log-odds`: votes contain the fractions that stop in each
            interval, followed by those that pass it. `mean`: the votes themselves.
        votes: (Q, E) mean votes; E is the number of outputs, or twice as many for `log-odds`.
    """
    if rule == "mean":
        return votes
    logs = votes.clamp(min=_LEAST_SHARE).log()
    if rule == "log":
        return logs
    stops, passes = logs.chunk(2, dim=1)
    return stops - passes


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Logits that are linear in the embedding."""

    coefficients: FloatArray
    """(D, outputs)"""
    intercepts: FloatArray
    """(outputs,)"""

    def __call__(self, embeddings: FloatArray) -> Tensor:
        """Return the logits of (n, D) embeddings, (n, outputs) float32.

        The logits of a row do not depend on the other rows, to the last bit, which a matrix product does not guarantee.
        """
        block = max(1, _BLOCK_VALUES // max(self.coefficients.size, 1))
        parts = [
            (embeddings[start : start + block, None, :] * self.coefficients.T).sum(axis=-1)
            for start in range(0, len(embeddings), block)
        ]
        logits = np.concatenate([np.zeros((0, len(self.intercepts))), *parts]) + self.intercepts
        return torch.tensor(logits, dtype=torch.float32)
