"""Two or more unordered classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.core.text import count, listed
from slpd_toolkit.mil.tasks.targets import read_classes, read_known_classes, require_two_classes
from slpd_toolkit.mil.tasks.task import Metric, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.cases import Choice
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

_LIKE_NOTHING = frozenset({"nan", "na", "n/a", "none", "null"})
"""Common spellings of missing values, which may still be names of classes."""
METRICS = {
    "auc": Metric("AUC", chance=0.5),
    "balanced_accuracy": Metric("balanced accuracy"),
    "accuracy": Metric("accuracy"),
    "f1": Metric("F1 (macro)"),
    "kappa": Metric("Cohen's kappa", chance=0.0, scale="agreement"),
}


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """Unordered classes."""

    settings: ClassVar[frozenset[str]] = frozenset({"classes", "sensitivity"})
    headline: ClassVar = "auc"
    known_metrics: ClassVar[Mapping[str, Metric]] = METRICS
    rank_metrics: ClassVar[frozenset[str]] = frozenset({"auc"})
    figures: ClassVar[tuple[str, ...]] = ("roc", "calibration", "calibration-scaled")
    aggregator_figures: ClassVar[tuple[str, ...]] = ("confusion", "roc-classes")
    hardest: ClassVar = (
        "Slides with the lowest probability of their true class, averaged over the folds that tested them. “Wrong in” "
        "counts the results (model and aggregator) that misclassify the slide; if all of them do, check its label."
    )
    kind: ClassVar = "classification"

    classes: tuple[str, ...]
    """Names of the C classes."""
    targets: IntArray
    """(N,) class index of each slide."""

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """See `Task.columns`."""
        return [settings.target[0]]

    @classmethod
    def is_wanted(cls, cells: pd.DataFrame, settings: MilEvalConfig) -> pd.Series[bool]:
        """Return which slides belong to the selected classes."""
        return cells.iloc[:, 0].isin(settings.classes) if settings.classes else super().is_wanted(cells, settings)

    @classmethod
    def read(cls, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Self:
        """See `targets.read_classes` and `targets.require_two_classes`."""
        return cls(*require_two_classes(read_classes(slides, cells[0], settings.classes), settings.sensitivity))

    def read_other(self, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Self:  # noqa: ARG002
        """See `Task.read_other`; a class may have no slides."""
        return replace(self, targets=read_known_classes(slides, cells[0], self.classes))

    @classmethod
    def from_labels(cls, slides: StrArray, labels: StrArray, classes: Sequence[str] = ()) -> Self:
        """Read a column of labels; see `targets.read_classes`."""
        return cls(*read_classes(slides, labels, classes))

    def assumptions(self, settings: MilEvalConfig) -> list[str]:
        """Note classes whose names look like missing values."""
        odd = [] if settings.classes else [name for name in self.classes if name.lower() in _LIKE_NOTHING]
        note = f"{listed(odd)} is used as a class. Only empty cells are missing; use --classes to exclude classes."
        return [note] if odd else []

    @property
    def strata(self) -> StrArray:
        """(N,) class names."""
        return np.array(self.classes)[self.targets]

    @property
    def strata_names(self) -> Sequence[str]:
        """The classes."""
        return self.classes

    def objective(self, train: IntArray) -> Objective:
        """Return cross entropy with balanced class weights.

        Raises:
            UsageError: A class has no training slide.
        """
        from slpd_toolkit.mil.tasks.likelihoods import CrossEntropy, balance_classes

        return CrossEntropy(*balance_classes(self.classes, self.targets, train), len(self.classes))

    def predicted(self, outputs: FloatArray) -> IntArray:
        """Return the most probable class: (n, C) probabilities -> (n,)."""
        from slpd_toolkit.mil.tasks.metrics import predicted_classes

        return predicted_classes(outputs)

    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """See `metrics.classification`."""
        from slpd_toolkit.mil.tasks import metrics

        return metrics.classification(self.targets[rows], outputs)

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `weighted_metrics.classification`."""
        from slpd_toolkit.mil.tasks import weighted_metrics

        return weighted_metrics.classification(self.targets[rows], outputs, weights)

    def exact_influences(self, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:
        """See `case_influences.classification`."""
        from slpd_toolkit.mil.tasks import case_influences

        return case_influences.classification(self.targets[rows], outputs)

    def contrasts(self) -> FloatArray:
        """Return contrasts of each class against the rest, (N, C); both sides have equal weight."""
        of_class = np.eye(len(self.classes), dtype=np.bool_)[self.targets]
        counts = np.maximum(of_class.sum(axis=0), 1)
        others = np.maximum((~of_class).sum(axis=0), 1)
        contrasts: FloatArray = np.where(of_class, 1 / counts, -1 / others)
        return contrasts

    def binary_scores(self, rows: IntArray, outputs: FloatArray) -> tuple[BoolArray, FloatArray] | None:
        """Return the scores of the second of two classes."""
        return (self.targets[rows] == 1, outputs[:, 1]) if len(self.classes) == 2 else None

    @property
    def prediction_columns(self) -> list[str]:
        """True class, predicted class, and the probability of each class."""
        return ["target", "predicted", *(f"probability_{name}" for name in self.classes)]

    def prediction_cells(self, rows: IntArray, outputs: FloatArray) -> Iterator[list[object]]:
        """See `Task.prediction_cells`."""
        for row, index, probabilities in zip(rows, self.predicted(outputs), outputs.tolist(), strict=True):
            yield [self.classes[self.targets[row]], self.classes[index], *probabilities]

    def document(self) -> dict[str, object]:
        """See `Task.document`."""
        return {"kind": self.kind, "headline": self.headline, "classes": list(self.classes)}

    def facts(self) -> dict[str, str]:
        """See `Task.facts`."""
        return {"task": f"{count(len(self.classes), 'class', 'classes')}"}

    def definitions(self) -> dict[str, str]:
        """See `Task.definitions`."""
        from slpd_toolkit.mil.tasks.metrics import define_metrics

        return define_metrics(len(self.classes), "most probable class")

    def draw(
        self, results: Sequence[ModelOutputs], styles: Mapping[str, Look], patients: StrArray
    ) -> list[FigureSection]:
        """Draw ROC curves, calibration plots and confusion matrices."""
        del patients
        from slpd_toolkit.mil.tasks.class_figures import calibration_section, confusion_section, roc_section

        styled = results, self, styles
        return [roc_section(*styled), calibration_section(*styled), confusion_section(results, self)]

    def choose_cases(
        self, results: Sequence[ModelOutputs], slides: StrArray, patients: StrArray, limit: int
    ) -> list[Choice]:
        """Choose the slides with the lowest and highest probability of their true class."""
        from slpd_toolkit.mil.tasks.cases import choose_classified, wrong_in

        wrong = wrong_in(results, self)
        return [choose_classified(each, self, slides, patients, wrong, len(results), limit) for each in results]


TASK = Classification
