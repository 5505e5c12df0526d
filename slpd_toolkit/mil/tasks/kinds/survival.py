"""Follow-up times with right censoring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks.survival_metrics import (
    Censoring,
    SurvivalGrid,
    definitions,
    evaluation_times,
    influences,
    martingale_residuals,
    weighted_metrics,
)
from slpd_toolkit.mil.tasks.targets import read_follow_up, require_one_time
from slpd_toolkit.mil.tasks.task import Metric, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.cases import Choice
    from slpd_toolkit.mil.tasks.figure_sections import FigureSection
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs
    from slpd_toolkit.mil.tasks.readouts import Readout

_TIME, _EVENT = "time", "event"
METRICS = {
    "c_index": Metric("concordance index", chance=0.5),
    "uno_c_index": Metric("Uno's concordance index", chance=0.5),
    "integrated_brier_score": Metric("integrated Brier score (lower is better)"),
    "observed_to_expected": Metric("observed / expected events (1 is calibrated)", scale="ratio"),
}
HARDEST = (
    "Slides with the smallest fraction of concordant pairs within their test folds (at least three comparable pairs)."
)


@dataclass(frozen=True, eq=False)
class Survival(Task):
    """Survival, trained as discrete hazards over time bins."""

    settings: ClassVar = frozenset({"time_column", "event_column"})
    targets_are: ClassVar = "unused"
    headline: ClassVar = "c_index"
    known_metrics: ClassVar[Mapping[str, Metric]] = METRICS
    rank_metrics: ClassVar[frozenset[str]] = frozenset({"c_index", "uno_c_index"})
    figures: ClassVar = ("survival-calibration",)
    aggregator_figures: ClassVar = ("kaplan-meier",)
    strata_title: ClassVar = ("Events", "outcome")
    strata_are_labels: ClassVar = False
    hardest: ClassVar = HARDEST

    times: FloatArray
    """(N,) follow-up times, in any unit."""
    events: BoolArray
    """(N,) True if the event was observed."""
    bins: int = 4
    """Number of time bins, with equal numbers of training events; MCAT and HIPT use four."""

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """Time and event."""
        return [settings.time_column or _TIME, settings.event_column or _EVENT]

    @classmethod
    def read(cls, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Survival:
        """See `from_cells`."""
        return cls.from_cells(slides, cells[0], cells[1], bins=settings.time_bins)

    @classmethod
    def from_cells(cls, slides: StrArray, times: StrArray, events: StrArray, *, bins: int = 4) -> Survival:
        """Read columns of times and events; see `targets.read_follow_up`.

        Raises:
            UsageError: Invalid cells, no events, or fewer than two bins.
        """
        if bins < 2:
            raise UsageError(f"Got {bins} time bins.", hint="Allowed: 2 or more.")
        return cls(*read_follow_up(slides, times, events), bins)

    def adapt_readout(self, readout: Readout) -> Readout:
        """Return the readout at the evaluation times of this cohort."""
        return readout if readout.grid is None else replace(readout, grid=replace(readout.grid, times=self.grid))

    def check_patients(self, patients: StrArray) -> None:
        """Check that all slides of a patient have the same time.

        Raises:
            UsageError: They have different times.
        """
        require_one_time(patients, self.times)

    @property
    def strata(self) -> StrArray:
        """(N,) `event` or `censored`."""
        return np.where(self.events, "event", "censored")

    @property
    def strata_names(self) -> Sequence[str]:
        """Events first."""
        return ("event", "censored")

    def objective(self, train: IntArray) -> Objective:
        """Return discrete hazards over time bins derived from the training events.

        Raises:
            UsageError: The training part has no events.
        """
        import torch

        from slpd_toolkit.mil.tasks.hazards import time_bin_edges, time_bins
        from slpd_toolkit.mil.tasks.likelihoods import Hazards

        edges = time_bin_edges(self.times[train], self.events[train], self.bins)
        interval, weights = torch.tensor(time_bins(self.times, edges)), torch.ones(len(self.times))
        knots = np.array([0, *edges, max(self.times[train].max(), edges[-1])])
        return Hazards(
            interval, torch.tensor(self.events), weights, len(edges) + 1, None, SurvivalGrid(knots, self.grid)
        )

    @cached_property
    def grid(self) -> FloatArray:
        """(G,) times at which survival probabilities are evaluated: see `survival_metrics.evaluation_times`."""
        return evaluation_times(self.times, self.events)

    @cached_property
    def censoring(self) -> Censoring:
        """Distribution of the censoring times of the whole cohort."""
        return Censoring.of(self.times, self.events)

    def weighted_metrics(self, rows: IntArray, outputs: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
        """See `weighted_metrics.survival`."""
        return weighted_metrics(self.times[rows], self.events[rows], outputs, weights, self.censoring, self.grid)

    def exact_influences(self, rows: IntArray, outputs: FloatArray) -> dict[str, FloatArray]:
        """See `survival_metrics.influences`."""
        return influences(self.times[rows], self.events[rows], outputs, self.censoring, self.grid)

    def scores(self, outputs: FloatArray) -> FloatArray:
        """(n, 1) risks."""
        return outputs[:, :1]

    def contrasts(self) -> FloatArray:
        """(N, 1) martingale residuals without covariates: events minus the Nelson-Aalen cumulative hazard."""
        return martingale_residuals(self.times, self.events)[:, None] / len(self.times)

    @property
    def prediction_columns(self) -> list[str]:
        """Time, event, and predicted risk."""
        return ["time", "event", "risk"]

    def prediction_cells(self, rows: IntArray, outputs: FloatArray) -> Iterator[list[object]]:
        """See `Task.prediction_cells`."""
        for row, risk in zip(rows, outputs[:, 0].tolist(), strict=True):
            yield [float(self.times[row]), int(self.events[row]), risk]

    def document(self) -> dict[str, object]:
        """See `Task.document`."""
        events = int(self.events.sum())
        return {"kind": "survival", "headline": self.headline, "events": events, "time_bins": self.bins}

    def facts(self) -> dict[str, str]:
        """See `Task.facts`."""
        low, middle, high = np.quantile(self.times, [0, 0.5, 1])
        return {
            "task": "survival (discrete-time hazards)",
            "follow-up": f"{low:.3g} to {high:.3g}, median {middle:.3g} (unit of the manifest)",
        }

    def definitions(self) -> dict[str, str]:
        """See `Task.definitions`."""
        return definitions(self.grid)

    def draw(
        self, results: Sequence[ModelOutputs], styles: Mapping[str, Look], patients: StrArray
    ) -> list[FigureSection]:
        """Draw Kaplan-Meier curves by predicted risk and, if probabilities are predicted, their calibration."""
        from slpd_toolkit.mil.tasks.survival_calibration import survival_sections

        return survival_sections(results, self, styles, patients)

    def choose_cases(
        self, results: Sequence[ModelOutputs], slides: StrArray, patients: StrArray, limit: int
    ) -> list[Choice]:
        """Choose the slides with the smallest and largest fraction of concordant pairs."""
        from slpd_toolkit.mil.tasks.cases import choose_survival

        return [choose_survival(each, self, slides, patients, limit) for each in results]


TASK = Survival
