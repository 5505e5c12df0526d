"""Discrete hazards: one likelihood for survival in time bins and for ordered classes.

A hazard is the probability of stopping in an interval, given that it was reached. In survival, a case stops with the
event or is censored. With ordered classes, a case stops at its class, after passing all lower ones (continuation ratio:
Fienberg 1980; as a network head: CORN, Shi et al., Pattern Anal Appl 2023). Only cases of the highest class are
censored: they pass every threshold.
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
    """Compute the negative log-likelihood of discrete hazards.

        stopped:  -log h_k - sum_{j < k} log(1 - h_j)
        censored: -sum_{j <= k} log(1 - h_j)             with h = sigmoid(logits), k = interval

    As in MCAT and HIPT, a case censored in an interval counts as having passed it. (Zadeh & Schmid, TPAMI
    2021;43:3126.)

    Args:
        logits: (B, J) logits of the hazards.
        interval: (B,) index of the interval where a case stopped or was censored.
        stopped: (B,) bool, False for censored cases.

    Returns:
        (B,)
    """
    stops, passes = stops_and_passes(interval, stopped, logits.shape[1])
    return -(stops * F.logsigmoid(logits) + passes * F.logsigmoid(-logits)).sum(dim=1)


def stops_and_passes(interval: Tensor, stopped: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    """Return (B, J) indicators of the interval where each case stopped, and of the intervals that it passed."""
    here = F.one_hot(interval, intervals).float()
    stops = here * stopped.unsqueeze(1)
    return stops, 1 - here.cumsum(dim=1) + here - stops


def survival_curve(logits: Tensor) -> Tensor:
    """Convert hazard logits to the probability of passing each interval and all before it: (B, J) -> (B, J)."""
    return torch.cumprod(torch.sigmoid(-logits), dim=1)


def class_probabilities(logits: Tensor) -> Tensor:
    """Convert hazard logits to probabilities of ordered classes: (B, C - 1) -> (B, C). Rows sum to 1."""
    reached = F.pad(survival_curve(logits), (1, 0), value=1.0)
    return torch.cat([reached[:, :-1] * torch.sigmoid(logits), reached[:, -1:]], dim=1)


def time_bin_edges(times: FloatArray, events: BoolArray, bins: int) -> FloatArray:
    """Return inner edges of time bins with equal numbers of observed events: quantiles of the uncensored times.

    Args:
        times: (N,) times of the training part. Those of other parts would leak through the edges.
        events: (N,) True if the event was observed.
        bins: Number of bins; equal quantiles are merged, so there may be fewer.

    Returns:
        Ascending edges, (bins - 1,) or fewer.

    Raises:
        UsageError: The training part has no events.
    """
    if not events.any():
        raise UsageError("A training part has no events, so survival cannot be learned.", hint="Use fewer folds.")
    quantiles = np.quantile(times[events], np.arange(1, bins) / bins)
    edges: FloatArray = np.unique(quantiles)
    return edges


def time_bins(times: FloatArray, edges: FloatArray) -> IntArray:
    """Return the bin of each time, (N,). Bins include their lower edge; the first and last bins are unbounded."""
    return np.searchsorted(edges, times, side="right").astype(np.int64)
