"""A number, such as a score, a dose or an expression value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.mil.tasks.regression_metrics import DEFINITIONS, influences, weighted_metrics
from slpd_toolkit.mil.tasks.targets import quantile_strata, read_values, require_one_value
from slpd_toolkit.mil.tasks.task import Metric, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.cases import Choice
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs


@dataclass(frozen=True, eq=False)
class Regression(Task):
    """A number, trained by least squares."""

    settings: ClassVar[frozenset[str]] = frozenset()
    headline: ClassVar = "spearman"
    known_metrics: ClassVar[Mapping[str, Metric]] = {
        "spearman": Metric("Spearman correlation", chance=0.0, scale="agreement"),
        "r2": Metric("R²", scale="explained"),
        "mae": Metric("mean absolute error (lower is better)", scale="ratio"),
    }
    rank_metrics: ClassVar[frozenset[str]] = frozenset({"spearman"})
    aggregator_figures: ClassVar = ("scatter",)
    strata_title: ClassVar = ("Values", "quarter")
    hardest: ClassVar = "Slides with the largest absolute error, averaged over the folds that tested them."

    values: FloatArray
    """(N,) value of each slide."""

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """See `Task.columns`."""
        return [settings.target[0]]

    @classmethod
    def read(cls, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Regression:
        """See `targets.read_values`."""
        return cls(read_values(slides, cells[0], settings.target[0]))

    def check_patients(self, patients: StrArray) -> None:
        """Check that all slides of a patient have the same value.

        Raises:
            UsageError: They have different values.
        """
        require_one_value(
            patients,
            self.values,
            "value",
            "All slides of a patient need the same value: correct or drop these patients.",
        )

    @property
    def strata(self) -> StrArray:
        """(N,) quarter of the values that each slide is in, so that all folds have low and high ones."""
        return quantile_strata(self.values)

    def objective(self, train: IntArray) -> Objective:
        """Return least squares of values standardized by the training part."""
        from slpd_toolkit.mil.tasks.least_squares import LeastSquares

        return LeastSquares.of(self.values, train)

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `regression_metrics.weighted_metrics`."""
        return weighted_metrics(self.values[rows], outputs[:, 0], weights)

    def exact_influences(self, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:
        """See `regression_metrics.influences`."""
        return influences(self.values[rows], outputs[:, 0])

    def contrasts(self) -> FloatArray:
        """Return the difference between each slide's value and the mean, in standard deviations, (N, 1)."""
        contrasts: FloatArray = (self.values - self.values.mean())[:, None] / (self.values.std() * len(self.values))
        return contrasts

    @property
    def prediction_columns(self) -> list[str]:
        """True and predicted value."""
        return ["target", "predicted"]

    def prediction_cells(self, rows: IntArray, outputs: FloatArray) -> Iterator[list[object]]:
        """See `Task.prediction_cells`."""
        for row, predicted in zip(rows, outputs[:, 0].tolist(), strict=True):
            yield [float(self.values[row]), predicted]

    def document(self) -> dict[str, object]:
        """See `Task.document`."""
        return {"kind": "regression", "headline": self.headline}

    def facts(self) -> dict[str, str]:
        """See `Task.facts`."""
        low, middle, high = np.quantile(self.values, [0, 0.5, 1])
        return {"task": "regression (least squares)", "values": f"{low:.4g} to {high:.4g}, median {middle:.4g}"}

    def definitions(self) -> dict[str, str]:
        """See `Task.definitions`."""
        return DEFINITIONS

    def draw(
        self,
        results: Sequence[ModelOutputs],
        styles: Mapping[str, Look],
        patients: StrArray,
    ) -> list[FigureSection]:
        """Draw observed against predicted values."""
        from slpd_toolkit.mil.tasks.scatter import scatter_section

        return [scatter_section(results, self, styles, patients)]

    def choose_cases(
        self, results: Sequence[ModelOutputs], slides: StrArray, patients: StrArray, limit: int
    ) -> list[Choice]:
        """Choose the slides with the largest and the smallest absolute error."""
        from slpd_toolkit.mil.tasks.cases import choose_by_error

        return [choose_by_error(each, self, slides, patients, limit) for each in results]


TASK = Regression
