"""Discrete hazards: one likelihood for survival in time bins and for ordered classes.

A hazard is the chance to stop in an interval, having reached it. Survival stops with the event, or is censored; a grade
stops at its class, having passed all lower ones (continuation ratio: Fienberg 1980; as a network's head: CORN, Shi et
al., Pattern Anal Appl 2023). Grades are never censored, save the highest, which passes every threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray


def hazard_loss(logits: Tensor, interval: Tensor, stopped: Tensor) -> Tensor:
    """Negative log-likelihood of discrete hazards.

        stopped:  -log h_k - sum_{j < k} log(1 - h_j)
        censored: -sum_{j <= k} log(1 - h_j)             with h = sigmoid(logits), k = interval

    As in MCAT and HIPT, who censors in an interval counts as having passed it. (Zadeh & Schmid, TPAMI 2021;43:3126.)

    Args:
        logits: (B, J) logits of the hazards.
        interval: (B,) index of the interval where a case stopped or was censored.
        stopped: (B,) bool, false for censored.

    Returns:
        (B,)
    """
    stops, passes = stops_and_passes(interval, stopped, logits.shape[1])
    return -(stops * F.logsigmoid(logits) + passes * F.logsigmoid(-logits)).sum(dim=1)


def stops_and_passes(interval: Tensor, stopped: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    """(B,) where cases stopped or were censored -> (B, J) 1 where they stopped, and (B, J) 1 where they passed."""
    here = F.one_hot(interval, intervals).float()
    stops = here * stopped.unsqueeze(1)
    return stops, 1 - here.cumsum(dim=1) + here - stops


def survival_curve(logits: Tensor) -> Tensor:
    """(B, J) logits of hazards -> (B, J) probability to pass each interval and all before it."""
    return torch.cumprod(torch.sigmoid(-logits), dim=1)


def class_probabilities(logits: Tensor) -> Tensor:
    """(B, C - 1) logits of hazards -> (B, C) probability of each ordered class. Rows sum to 1."""
    reached = F.pad(survival_curve(logits), (1, 0), value=1.0)
    return torch.cat([reached[:, :-1] * torch.sigmoid(logits), reached[:, -1:]], dim=1)


def time_bin_edges(times: FloatArray, events: BoolArray, bins: int) -> FloatArray:
    """Inner edges of time bins that hold equally many of the events seen: quantiles of the uncensored times.

    Args:
        times: (N,) times of the training part. Those of other parts would leak through the edges.
        events: (N,) true where the event was seen.
        bins: Number of bins; equal quantiles merge, so there may be fewer.

    Returns:
        (bins - 1,) or fewer edges, rising.

    Raises:
        UsageError: No event in the training part.
    """
    if not events.any():
        raise UsageError(
            "No event in a training part: there is nothing to learn survival from.", hint="Use fewer folds."
        )
    quantiles = np.quantile(times[events], np.arange(1, bins) / bins)
    edges: FloatArray = np.unique(quantiles)
    return edges


def time_bins(times: FloatArray, edges: FloatArray) -> IntArray:
    """(N,) bin of each time; a bin holds its lower edge, and the first and last one are open."""
    return np.searchsorted(edges, times, side="right").astype(np.int64)
