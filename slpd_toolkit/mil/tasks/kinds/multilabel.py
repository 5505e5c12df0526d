"""Several targets with two values each, predicted by one head; slides may lack some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.tasks.targets import read_classes, read_known_classes, require_one_value
from slpd_toolkit.mil.tasks.task import Metric, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.cases import Choice
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

_UNKNOWN = -1
_DEFINITIONS = {
    "AUC (mean over labels)": "Mean of the areas under the ROC curves of the labels, each over cases with a known "
    "label. Guessing gives 0.5.",
    "Balanced accuracy (mean over labels)": "Mean of sensitivity and specificity at 0.5, mean over labels.",
}
_HARDEST = "Slides with the lowest mean probability of their true labels, averaged over the folds that tested them."


@dataclass(frozen=True, eq=False)
class MultiLabel(Task):
    """L labels per slide, independent of each other given the slide."""

    settings: ClassVar[frozenset[str]] = frozenset()
    targets_are: ClassVar = "joint"
    headline: ClassVar = "auc"
    aggregator_figures: ClassVar = ("roc-labels",)
    strata_title: ClassVar = ("Labels", "label")
    strata_are_labels: ClassVar = False
    hardest: ClassVar = _HARDEST

    names: tuple[str, ...]
    """(L,) manifest columns."""
    values: tuple[tuple[str, str], ...]
    """(L,) both values of each label; outputs are probabilities of the second."""
    targets: IntArray
    """(N, L) 1 for the second value, 0 for the first, -1 where the label is unknown."""

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """See `Task.columns`."""
        return list(settings.target)

    @classmethod
    def read(cls, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Self:
        """Read columns of labels, whose cells may be empty.

        Raises:
            UsageError: A column has more or fewer than two values.
        """
        values = tuple(_values(*column, slides) for column in zip(settings.target, cells, strict=True))
        return cls(tuple(settings.target), values, read_labels(slides, cells, values))

    def read_other(self, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Self:  # noqa: ARG002
        """See `Task.read_other`; a value may have no slides."""
        return replace(self, targets=read_labels(slides, cells, self.values))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """(L,) names of the outputs: column and second value."""
        return tuple(f"{name}={high}" for name, (_, high) in zip(self.names, self.values, strict=True))

    @property
    def known_metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """The AUC of each label, and means over labels."""
        from slpd_toolkit.mil.tasks.label_metrics import auc_name

        return {
            "auc": Metric("AUC (mean over labels)", chance=0.5),
            "balanced_accuracy": Metric("balanced accuracy (mean over labels)"),
            **{auc_name(name): Metric(f"AUC of {name}", chance=0.5) for name in self.outputs},
        }

    @property
    def rank_metrics(self) -> frozenset[str]:  # type: ignore[override]
        """All areas under ROC curves."""
        return frozenset(self.known_metrics) - {"balanced_accuracy"}

    def check_patients(self, patients: StrArray) -> None:
        """Check that all slides of a patient have the same labels.

        Raises:
            UsageError: They differ, or only some of them have a label.
        """
        for index, name in enumerate(self.names):
            hint = "All slides of a patient need the same label: correct these patients."
            require_one_value(patients, self.targets[:, index].astype(np.float64), name, hint)

    @property
    def strata(self) -> StrArray:
        """(N,) a single stratum: combinations of labels are too many."""
        return np.full(len(self.targets), "")

    @property
    def balance(self) -> StrArray:  # type: ignore[override]
        """(N, L) the labels."""
        pairs = zip(self.names, self.values, strict=True)
        names = [np.array([f"{name}={low}", f"{name}={high}", ""]) for name, (low, high) in pairs]
        return np.stack([name[column] for name, column in zip(names, self.targets.T, strict=True)], axis=1)

    def objective(self, train: IntArray) -> Objective:
        """Return binary cross entropy with balanced weights.

        Raises:
            UsageError: A label has a single value on the training slides.
        """
        from slpd_toolkit.mil.tasks.several_labels import SeveralLabels

        return SeveralLabels.of(self.names, self.targets, train)

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `label_metrics.weighted_metrics`."""
        from slpd_toolkit.mil.tasks.label_metrics import weighted_metrics

        return weighted_metrics(self.outputs, self.targets[rows], outputs, weights)

    def exact_influences(self, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:
        """See `case_influences.labels`."""
        from slpd_toolkit.mil.tasks import case_influences

        return case_influences.labels(self.outputs, self.targets[rows], outputs)

    def contrasts(self) -> FloatArray:
        """Return contrasts of both values of each label, (N, L); 0 where it is unknown."""
        high, low = self.targets == 1, self.targets == 0
        contrasts: FloatArray = high / np.maximum(high.sum(axis=0), 1) - low / np.maximum(low.sum(axis=0), 1)
        return contrasts

    @property
    def prediction_columns(self) -> list[str]:
        """True labels, empty where unknown, and the probability of each."""
        return [*(f"target_{name}" for name in self.names), *(f"probability_{name}" for name in self.outputs)]

    def prediction_cells(self, rows: IntArray, outputs: FloatArray) -> Iterator[list[object]]:
        """See `Task.prediction_cells`."""
        for row, probabilities in zip(rows, outputs.tolist(), strict=True):
            known = zip(self.targets[row].tolist(), self.values, strict=True)
            yield [*("" if code == _UNKNOWN else pair[code] for code, pair in known), *probabilities]

    def document(self) -> dict[str, object]:
        """See `Task.document`."""
        values = {name: list(pair) for name, pair in zip(self.names, self.values, strict=True)}
        return {"kind": "multilabel", "headline": self.headline, "classes": list(self.outputs), "values": values}

    def facts(self) -> dict[str, str]:
        """See `Task.facts`."""
        shares = [f"{name} {int((self.targets[:, i] != _UNKNOWN).sum())}" for i, name in enumerate(self.names)]
        return {"task": f"{count(len(self.names), 'label')}, one head", "slides with a label": ", ".join(shares)}

    def definitions(self) -> dict[str, str]:
        """See `Task.definitions`."""
        return _DEFINITIONS

    def draw(
        self, results: Sequence[ModelOutputs], styles: Mapping[str, Look], patients: StrArray
    ) -> list[FigureSection]:
        """Draw a ROC curve per label."""
        del patients
        from slpd_toolkit.mil.tasks.class_figures import label_roc_section

        return [label_roc_section(results, self, styles)]

    def choose_cases(
        self, results: Sequence[ModelOutputs], slides: StrArray, patients: StrArray, limit: int
    ) -> list[Choice]:
        """Choose the slides with the lowest and highest mean probability of their true labels."""
        from slpd_toolkit.mil.tasks.cases import choose_labelled

        return [choose_labelled(each, self, slides, patients, limit) for each in results]


def read_labels(slides: StrArray, cells: Sequence[StrArray], values: Sequence[tuple[str, str]]) -> IntArray:
    """Read L columns whose values are known, (n, L); see `MultiLabel.targets`.

    Raises:
        UsageError: There are other values.
    """
    targets = np.full((len(slides), len(cells)), _UNKNOWN, dtype=np.int64)
    for index, column in enumerate(cells):
        known = np.char.strip(column) != ""
        targets[known, index] = read_known_classes(slides[known], column[known], values[index])
    return targets


def _values(name: str, column: StrArray, slides: StrArray) -> tuple[str, str]:
    known = np.char.strip(column) != ""
    try:
        found, _ = read_classes(slides[known], column[known])
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from error
    if len(found) != 2:
        raise UsageError(
            f"{name} has {count(len(found), 'value')}: {', '.join(found)}.",
            hint="Labels of --task multilabel have two values each.",
        )
    return found[0], found[1]


TASK = MultiLabel
