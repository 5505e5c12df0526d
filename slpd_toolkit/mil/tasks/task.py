"""Base class of tasks: what is predicted per slide, and how it is evaluated and reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from slpd_toolkit.config.mil_eval import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.cases import Choice
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs
    from slpd_toolkit.mil.tasks.readouts import Readout


Targets = Literal["separate", "joint", "unused"]
Scale = Literal["share", "agreement", "ratio", "explained"]


@dataclass(frozen=True)
class Metric:
    """A metric of a task; higher is better if models are compared by it."""

    words: str
    """Name in tables and figures."""
    chance: float | None = None
    """Chance level, independent of class proportions."""
    scale: Scale = "share"
    """Range of values: 0 to 1 for shares, -1 to 1 for agreement, above 0 for ratios, below 1 for what is explained."""


class Reported(ABC):
    """What predictions.csv, metrics.json and the report contain for a kind of target."""

    figures: ClassVar[tuple[str, ...]] = ()
    """Stems of figures shared by all aggregators."""
    aggregator_figures: ClassVar[tuple[str, ...]] = ()
    """Stems of figures drawn per aggregator, `<stem>-<aggregator>`."""
    strata_title: ClassVar = ("Classes", "class")
    """Heading and first column of the table of strata."""
    hardest: ClassVar[str]
    """Sentence that explains how the hardest slides of the report are chosen."""

    @property
    @abstractmethod
    def prediction_columns(self) -> list[str]:
        """Columns of predictions.csv specific to this kind of target."""

    @abstractmethod
    def prediction_cells(self, rows: IntArray, outputs: FloatArray) -> Iterator[list[object]]:
        """Yield the cells of `prediction_columns` for each row."""

    @abstractmethod
    def document(self) -> dict[str, object]:
        """Return the description of the task in metrics.json."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return rows of the report's summary table; `task` is one of them."""

    @abstractmethod
    def definitions(self) -> dict[str, str]:
        """Return the definitions of the metrics for the report: term -> text."""

    def draw(
        self, results: Sequence[ModelOutputs], styles: Mapping[str, Look], patients: StrArray
    ) -> list[FigureSection]:
        """Draw the figures of this kind of target.

        Args:
            results: Every model with every aggregator.
            styles: Drawing style of each model.
            patients: (N,) patient of each slide.
        """
        del results, styles, patients
        return []

    @abstractmethod
    def choose_cases(
        self, results: Sequence[ModelOutputs], slides: StrArray, patients: StrArray, limit: int
    ) -> list[Choice]:
        """Choose the hardest and the most confidently correct slides of each result.

        Args:
            results: Every model with every aggregator.
            slides: (N,) slide IDs.
            patients: (N,) patient of each slide.
            limit: Maximum number of slides of each kind.
        """


class Task(Reported):
    """Targets of N slides in a fixed order, indexed by row.

    Each kind of target is a subclass in a file of `tasks/kinds/`, whose module defines it as `TASK`. Settings checks
    import the file, so it must import torch, scikit-learn and matplotlib inside functions only.
    """

    settings: ClassVar[frozenset[str]]
    """Settings of `slpd mil-eval` that only some kinds of target use, such as this one."""
    targets_are: ClassVar[Targets] = "separate"
    """Use of --target: each evaluated by itself, `joint` in one head (slides may lack some), or `unused`."""
    headline: ClassVar[str]
    """Name of the metric used to compare models."""
    known_metrics: ClassVar[Mapping[str, Metric]]
    """All metrics by name, in the order of tables."""
    rank_metrics: ClassVar[frozenset[str]] = frozenset()
    """Metrics that depend only on the order of outputs within a fold, column by column."""
    balance: StrArray | None = None
    """(N, B) columns of classes that splits balance instead of `strata`, empty where unknown."""
    strata_are_labels: ClassVar[bool] = True
    """Whether the strata are classes, by which retrieval of similar slides is measured."""

    @classmethod
    @abstractmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """Return the manifest columns with the targets."""

    @classmethod
    def is_wanted(cls, cells: pd.DataFrame, settings: MilEvalConfig) -> pd.Series[bool]:  # noqa: ARG003
        """Return which rows of the manifest, all without empty cells, belong to the task."""
        return cells.notna().all(axis=1)

    @classmethod
    @abstractmethod
    def read(cls, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Task:
        """Read the columns.

        Args:
            slides: (N,) slide IDs, for messages.
            cells: (N,) cells of each of `columns`.
            settings: Settings of the evaluation.

        Raises:
            UsageError: Invalid cells, or targets that cannot be learned.
        """

    def read_other(self, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Task:
        """Read the columns of another cohort, to which heads of this task are applied; arguments as in `read`.

        Raises:
            UsageError: Invalid cells, or classes that this cohort does not have.
        """
        return type(self).read(slides, cells, settings)

    def adapt_readout(self, readout: Readout) -> Readout:
        """Adapt the readout of a head that was trained on another cohort, so that its outputs fit this task."""
        return readout

    def check_patients(self, patients: StrArray) -> None:
        """Raise a `UsageError` if a patient has two targets that belong to patients; `patients` is (N,)."""

    def assumptions(self, settings: MilEvalConfig) -> list[str]:  # noqa: ARG002
        """Return notes on assumptions about the targets that no setting specifies."""
        return []

    @property
    @abstractmethod
    def strata(self) -> StrArray:
        """(N,) strata that splits and resampling balance."""

    @property
    def strata_names(self) -> Sequence[str]:
        """The strata in the order of tables."""
        return [str(name) for name in np.unique(self.strata)]

    @abstractmethod
    def objective(self, train: IntArray) -> Objective:
        """Return the training objective, with class weights, time bins and the like from the training rows only.

        Raises:
            UsageError: The task cannot be learned from these rows.
        """

    def metrics(self, rows: IntArray, outputs: FloatArray) -> dict[str, float]:
        """Compute all metrics of the outputs (n, ...) of n rows."""
        found = self.weighted_metrics(rows, outputs, np.ones((1, len(rows))))
        return {name: float(values[0]) for name, values in found.items()}

    @abstractmethod
    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """Compute `metrics` for R weightings (R, n) of the rows."""

    def exact_influences(self, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:  # noqa: ARG002
        """Compute derivatives of some `metrics` by the weight of each row, (n,); `influences` computes the others."""
        return {}

    def scores(self, outputs: FloatArray) -> FloatArray:
        """Reduce outputs (n, ...) to columns (n, S) whose order within a fold determines the headline metric."""
        return outputs

    @abstractmethod
    def contrasts(self) -> FloatArray:
        """Return which slides should rank high (above 0) and low (below 0) in each column of `scores`, (N, S)."""

    def binary_scores(self, rows: IntArray, outputs: FloatArray) -> tuple[BoolArray, FloatArray] | None:  # noqa: ARG002
        """Return which rows are positive, and their scores, for DeLong's test; None unless there are two classes."""
        return None


def influences(task: Task, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:
    """Compute the derivatives of all metrics with respect to the weight of each row, at 1, (n,); NaN if undefined.

    Those that are not among `Task.exact_influences` are computed by differences, which takes long for large cohorts.
    """
    from slpd_toolkit.mil.tasks.derivatives import by_differences

    exact = task.exact_influences(rows, outputs)
    weighted = partial(task.weighted_metrics, rows, outputs)
    others = frozenset(weighted(np.ones((1, len(rows)))).keys() - exact.keys())
    return exact | by_differences(weighted, len(rows), others) if others else exact


def groups_of(task: Task) -> list[tuple[str, BoolArray]]:
    """Return name and (N,) members of each class that splits balance, in the order of tables."""
    if task.balance is None:
        return [(name, task.strata == name) for name in task.strata_names]
    return [(str(name), column == name) for column in task.balance.T for name in np.unique(column) if name != ""]


def task_class(name: str) -> type[Task]:
    """Import a kind of target.

    Raises:
        UsageError: There is none with this name; the message lists those that exist.
    """
    found: type[Task] = TASKS.load(name).TASK
    return found
