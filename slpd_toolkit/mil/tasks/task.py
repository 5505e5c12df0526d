"""What is predicted per slide, and all that the evaluation asks about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from slpd_toolkit.config.mil_eval import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.figures.pictures import Look
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.cases import Choice
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs


Scale = Literal["share", "agreement", "ratio"]


@dataclass(frozen=True)
class Metric:
    """A metric of a task; higher is better if models are compared by it."""

    words: str
    """Its name in tables and figures."""
    chance: float | None = None
    """What guessing reaches, whatever the shares of the classes."""
    scale: Scale = "share"
    """Its ends: a share lies from 0 to 1, an agreement from -1 to 1, a ratio above 0."""


class Task(ABC):
    """What is predicted, for N slides in a fixed order. Rows index these slides.

    A kind of target is one subclass in one file of `tasks/kinds/`, whose module names it as `TASK`. That file is
    imported when settings are checked: it imports torch, scikit-learn and matplotlib inside functions only.
    """

    settings: ClassVar[frozenset[str]]
    """Settings of `slpd mil-eval` that only some kinds of target use, and this one does."""
    headline: ClassVar[str]
    """Name of the metric that models are compared by."""
    known_metrics: ClassVar[Mapping[str, Metric]]
    """All metrics by name, in the order of tables."""
    rank_metrics: ClassVar[frozenset[str]] = frozenset()
    """Metrics that depend on the order of outputs within a fold only, column by column."""
    figures: ClassVar[tuple[str, ...]] = ()
    """Stems of figures that all aggregators share."""
    aggregator_figures: ClassVar[tuple[str, ...]] = ()
    """Stems of figures of which each aggregator has one, `<stem>-<aggregator>`."""
    strata_title: ClassVar[tuple[str, str]] = ("Classes", "class")
    """Heading and first column of the table of strata."""
    hardest: ClassVar[str]
    """How the report's hardest slides are chosen, in a sentence."""

    @classmethod
    @abstractmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """Return the manifest columns that are predicted."""

    @classmethod
    def is_wanted(cls, cells: pd.DataFrame, settings: MilEvalConfig) -> pd.Series[bool]:  # noqa: ARG003
        """Return which rows of the manifest, none of whose cells is empty, belong to the task."""
        return cells.notna().all(axis=1)

    @classmethod
    @abstractmethod
    def read(cls, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Task:
        """Read the columns.

        Args:
            slides: (N,) slide ids, for messages.
            cells: For each of `columns` its (N,) cells.
            settings: Further settings.

        Raises:
            UsageError: Cells that cannot be used, or targets that nothing can be learnt from.
        """

    def check_patients(self, patients: StrArray) -> None:  # noqa: B027
        """Check targets that belong to patients, given the (N,) patient of each slide.

        Raises:
            UsageError: A patient has two targets.
        """

    def assumptions(self, settings: MilEvalConfig) -> list[str]:  # noqa: ARG002
        """Return notes on what was assumed about the targets because no setting said it."""
        return []

    @property
    @abstractmethod
    def strata(self) -> StrArray:
        """(N,) what splits and resampling balance."""

    @property
    def strata_names(self) -> Sequence[str]:
        """The strata in the order of tables."""
        return [str(name) for name in np.unique(self.strata)]

    @abstractmethod
    def objective(self, train: IntArray) -> Objective:
        """Fix class weights, time bins and the like from the training rows alone.

        Raises:
            UsageError: Nothing can be learnt from these rows.
        """

    @abstractmethod
    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """Compute all metrics of the outputs (n, ...) for these n rows."""

    @abstractmethod
    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """Compute `metrics` for R weightings (R, n) of the rows."""

    def scores(self, outputs: FloatArray) -> FloatArray:
        """Reduce outputs (n, ...) to columns (n, S) whose order within a fold is what the headline metric judges."""
        return outputs

    @abstractmethod
    def contrasts(self) -> FloatArray:
        """Return (N, S) for each column of `scores` which slides should rank high (above 0) and low (below 0)."""

    def binary_scores(self, rows: IntArray, outputs: FloatArray) -> tuple[BoolArray, FloatArray] | None:  # noqa: ARG002
        """Return which rows are positive, and the score of each, if `auc` compares two classes: for DeLong's test."""
        return None

    @property
    @abstractmethod
    def prediction_columns(self) -> list[str]:
        """Columns of predictions.csv that this kind of target fills."""

    @abstractmethod
    def prediction_cells(self, rows: IntArray, outputs: FloatArray) -> Iterator[list[object]]:
        """Yield the cells of `prediction_columns` for each row."""

    @abstractmethod
    def document(self) -> dict[str, object]:
        """Return what metrics.json says of the task."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return lines of the report's table of what was evaluated; `task` is one of them."""

    @abstractmethod
    def definitions(self) -> dict[str, str]:
        """Return the report's definitions of the metrics: term and text."""

    def draw(
        self,
        results: Sequence[ModelOutputs],  # noqa: ARG002
        styles: Mapping[str, Look],  # noqa: ARG002
        patients: StrArray,  # noqa: ARG002
    ) -> list[FigureSection]:
        """Draw the figures of this kind of target.

        Args:
            results: Every model under every aggregator.
            styles: How each model is drawn.
            patients: (N,) patient of each slide.
        """
        return []

    @abstractmethod
    def choose_cases(
        self, results: Sequence[ModelOutputs], slides: StrArray, patients: StrArray, limit: int
    ) -> list[Choice]:
        """Choose the hardest and the surest slides of each result.

        Args:
            results: Every model under every aggregator.
            slides: (N,) slide ids.
            patients: (N,) patient of each slide.
            limit: Most slides of either sort.
        """


def task_class(name: str) -> type[Task]:
    """Import a kind of target.

    Raises:
        UsageError: There is none of this name; the message lists those that exist.
    """
    found: type[Task] = TASKS.load(name).TASK
    return found
