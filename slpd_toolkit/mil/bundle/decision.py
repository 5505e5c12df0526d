"""Decisions: from the outputs of an ensemble to a class, by the threshold that was chosen on validation parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from slpd_toolkit.mil.tasks.metrics import predicted_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.tasks.readouts import ReadoutKind

DecisionKind = Literal["threshold", "most-probable", "median-class", "risk-percentile", "value", "labels"]
HIGH, LOW = "high risk", "low risk"
NO_LABEL = "none"
"""Decision for a slide without any label."""


@dataclass(frozen=True)
class Decision:
    """How outputs become a decision."""

    kind: DecisionKind
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    """Of the probability of the second class, or of the percentile of the risk."""
    thresholds: tuple[float, ...] = ()
    """One per class, for `labels`."""

    def decide(self, outputs: FloatArray, percentiles: FloatArray) -> list[str]:
        """Decide for n slides.

        Args:
            outputs: (n, C) mean outputs of the heads.
            percentiles: (n,) rank of the risk among held-out training slides, 0-1; used only for risks.
        """
        if self.kind == "value":
            return [f"{value:.6g}" for value in outputs[:, 0].tolist()]
        if self.kind == "labels":
            found = outputs >= np.array(self.thresholds)
            return [
                ", ".join(name for name, is_found in zip(self.classes, row, strict=True) if is_found) or NO_LABEL
                for row in found.tolist()
            ]
        if self.kind == "risk-percentile":
            return [HIGH if rank >= self.threshold else LOW for rank in percentiles.tolist()]
        if self.kind == "threshold":
            return [self.classes[int(value >= self.threshold)] for value in outputs[:, 1].tolist()]
        chosen = predicted_classes(outputs, ordinal=self.kind == "median-class")
        return [self.classes[index] for index in np.minimum(chosen, len(self.classes) - 1).tolist()]


def decision_of(readout: ReadoutKind, classes: Sequence[str]) -> Decision:
    """Return the decision for a kind of outputs, with the default threshold."""
    if readout == "softmax":
        return Decision("threshold" if len(classes) == 2 else "most-probable", tuple(classes))
    if readout == "labels":
        return Decision("labels", tuple(classes), thresholds=(0.5,) * len(classes))
    if readout == "ordered-classes":
        return Decision("median-class", tuple(classes))
    return Decision("risk-percentile" if readout == "risk" else "value")
