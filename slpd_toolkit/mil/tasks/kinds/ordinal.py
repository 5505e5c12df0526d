"""Ordered classes, such as grades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.core.text import count, natural_key
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.task import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs


@dataclass(frozen=True, eq=False)
class Ordinal(Classification):
    """Ordered classes, from low to high: trained as discrete hazards, predicted as the median of the distribution."""

    settings: ClassVar = frozenset({"classes"})
    headline: ClassVar = "quadratic_kappa"
    known_metrics: ClassVar = {
        **Classification.known_metrics,
        "quadratic_kappa": Metric("quadratic kappa", chance=0.0, scale="agreement"),
    }
    figures: ClassVar = ("calibration",)
    aggregator_figures: ClassVar = ("confusion",)
    kind: ClassVar = "ordinal"

    def assumptions(self, settings: MilEvalConfig) -> list[str]:
        """Also note the assumed order of classes whose names are not all numbers."""
        notes = super().assumptions(settings)
        if not settings.classes and any(natural_key(name)[0] for name in self.classes):
            notes.append(
                f"Classes are assumed to be ordered {' < '.join(self.classes)}; use --classes for another order."
            )
        return notes

    def objective(self, train: IntArray) -> Objective:
        """Return continuation-ratio hazards with balanced class weights.

        Raises:
            UsageError: A class has no training slide.
        """
        from slpd_toolkit.mil.tasks.likelihoods import Hazards, balance_classes

        labels, weights = balance_classes(self.classes, self.targets, train)
        last = len(self.classes) - 2
        return Hazards(labels.clamp(max=last), labels <= last, weights, last + 1, labels)

    def predicted(self, outputs: FloatArray) -> IntArray:
        """Return the median class: (n, C) probabilities -> (n,)."""
        from slpd_toolkit.mil.tasks.metrics import predicted_classes

        return predicted_classes(outputs, ordinal=True)

    def scores(self, outputs: FloatArray) -> FloatArray:
        """Return the expected class: (n, C) probabilities -> (n, 1)."""
        expected: FloatArray = outputs @ np.arange(outputs.shape[1], dtype=np.float64)
        return expected[:, None]

    def contrasts(self) -> FloatArray:
        """Return the difference between each slide's class and the mean class, (N, 1)."""
        contrasts: FloatArray = (self.targets - self.targets.mean())[:, None] / len(self.targets)
        return contrasts

    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """See `metrics.classification`."""
        from slpd_toolkit.mil.tasks import metrics

        return metrics.classification(self.targets[rows], outputs, ordinal=True)

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `weighted_metrics.classification`."""
        from slpd_toolkit.mil.tasks import weighted_metrics

        return weighted_metrics.classification(self.targets[rows], outputs, weights, ordinal=True)

    def exact_influences(self, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:
        """See `case_influences.classification`."""
        from slpd_toolkit.mil.tasks import case_influences

        return case_influences.classification(self.targets[rows], outputs, ordinal=True)

    def facts(self) -> dict[str, str]:
        """See `Task.facts`."""
        return {"task": f"{count(len(self.classes), 'ordered class', 'ordered classes')}, low to high"}

    def definitions(self) -> dict[str, str]:
        """See `Task.definitions`."""
        from slpd_toolkit.mil.tasks.class_figures import QUADRATIC_KAPPA
        from slpd_toolkit.mil.tasks.metrics import define_metrics

        of_classes = define_metrics(len(self.classes), "median class of the predicted distribution")
        return of_classes | {"Quadratic kappa": QUADRATIC_KAPPA}

    def draw(
        self, results: Sequence[ModelOutputs], styles: Mapping[str, Look], patients: StrArray
    ) -> list[FigureSection]:
        """Draw calibration plots and confusion matrices."""
        del patients
        from slpd_toolkit.mil.tasks.class_figures import calibration_section, confusion_section

        return [calibration_section(results, self, styles), confusion_section(results, self)]


TASK = Ordinal
