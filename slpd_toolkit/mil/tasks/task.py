"""What is predicted for a slide: a class, a grade, or survival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.mil.tasks import metrics, weighted_metrics
from slpd_toolkit.mil.tasks.hazards import time_bin_edges, time_bins
from slpd_toolkit.mil.tasks.likelihoods import CrossEntropy, Hazards

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.likelihoods import Objective


class Task(Protocol):
    """What is predicted, for N slides in a fixed order. Rows index these slides."""

    @property
    def headline(self) -> str:
        """Name of the metric that models are selected and compared by; higher is better."""

    @property
    def strata(self) -> StrArray:
        """(N,) what splits and resampling balance."""

    def objective(self, train: IntArray) -> Objective:
        """Fix class weights and time bins from the training rows alone."""

    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """Judge the outputs (n, ...) for these n rows."""

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """`metrics` for R weightings (R, n) of the rows."""


@dataclass(frozen=True, eq=False)
class Classification:
    """Binary or multi-class classification, of ordered classes if `ordinal`."""

    classes: tuple[str, ...]
    """Names of the C classes; ordinal ones from low to high."""
    targets: IntArray
    """(N,) class index of each slide."""
    ordinal: bool = False

    @property
    def headline(self) -> str:
        """AUC, or for ordered classes the quadratic kappa."""
        return "quadratic_kappa" if self.ordinal else "auc"

    @property
    def strata(self) -> StrArray:
        """(N,) class names."""
        return np.array(self.classes)[self.targets]

    def objective(self, train: IntArray) -> Objective:
        """Cross entropy, or continuation-ratio hazards for ordered classes, with each class weighing the same.

        Raises:
            UsageError: A class has no training slide.
        """
        counts = np.bincount(self.targets[train], minlength=len(self.classes))
        absent = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if absent:
            raise UsageError(
                f"A training part has no slide of {listed(absent)}.", hint="Use other folds, or leave it out."
            )
        balance = len(train) / (len(self.classes) * counts)
        labels, weights = torch.tensor(self.targets), torch.tensor(balance[self.targets]).float()
        if not self.ordinal:
            return CrossEntropy(labels, weights, len(self.classes))
        last = len(self.classes) - 2
        return Hazards(labels.clamp(max=last), labels <= last, weights, last + 1, labels)

    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """See `metrics.classification`."""
        return metrics.classification(self.targets[rows], outputs, ordinal=self.ordinal)

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `weighted_metrics.classification`."""
        return weighted_metrics.classification(self.targets[rows], outputs, weights, ordinal=self.ordinal)


@dataclass(frozen=True, eq=False)
class Survival:
    """Survival with right censoring, learnt as discrete hazards over time bins."""

    times: FloatArray
    """(N,) follow-up times, in any unit."""
    events: BoolArray
    """(N,) true where the event was seen."""
    bins: int = 4
    """Time bins, with equally many training events each; MCAT and HIPT use four."""

    @property
    def headline(self) -> str:
        """The concordance index."""
        return "c_index"

    @property
    def strata(self) -> StrArray:
        """(N,) `event` or `censored`."""
        return np.where(self.events, "event", "censored")

    def objective(self, train: IntArray) -> Objective:
        """Discrete hazards over bins of the training events' times.

        Raises:
            UsageError: No event in the training part.
        """
        edges = time_bin_edges(self.times[train], self.events[train], self.bins)
        interval, weights = torch.tensor(time_bins(self.times, edges)), torch.ones(len(self.times))
        return Hazards(interval, torch.tensor(self.events), weights, len(edges) + 1, labels=None)

    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """See `metrics.survival`."""
        return metrics.survival(self.times[rows], self.events[rows], outputs[:, 0])

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `weighted_metrics.survival`."""
        return weighted_metrics.survival(self.times[rows], self.events[rows], outputs[:, 0], weights)
