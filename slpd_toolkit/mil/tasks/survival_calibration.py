"""Calibration of predicted survival: predicted against observed risk at one time, in groups of predicted risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.figures.number_format import short
from slpd_toolkit.core.figures.pictures import GREY, panels
from slpd_toolkit.mil.tasks.figure_sections import CaptionedFigure, FigureSection
from slpd_toolkit.mil.tasks.kaplan_meier import kaplan_meier, kaplan_meier_section
from slpd_toolkit.mil.tasks.predictions import by_aggregator, mean_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from slpd_toolkit.core.figures.pictures import Look
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.kinds.survival import Survival
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

_MOST_GROUPS = 5
_FEWEST_PATIENTS = 10
_CAPTION = (
    "Patients are divided into groups of equal size by their predicted probability of an event by time {:.3g} (the "
    "middle evaluation time). Horizontal: mean predicted probability; vertical: observed share by the Kaplan–Meier "
    "estimate, with its 95 % log-log confidence interval. Calibrated predictions lie on the dotted line; above it, "
    "predicted risks are too low. Predictions of a patient are averaged over slides and repeats."
)


@dataclass(frozen=True, eq=False)
class SurvivalCalibration:
    """Predicted and observed probability of an event by one time, in G groups of increasing predicted risk."""

    predicted: FloatArray
    """(G,) mean predicted probability."""
    observed: FloatArray
    """(G,) 1 minus the Kaplan-Meier estimate of the group."""
    low: FloatArray
    high: FloatArray
    """(G,) 95 % log-log confidence interval of the observed probability."""
    counts: IntArray
    """(G,) number of patients."""


def survival_calibration(
    times: FloatArray, events: BoolArray, predicted: FloatArray, horizon: float
) -> SurvivalCalibration:
    """Compare predicted with observed probabilities of an event by one time.

    (Royston & Altman, BMC Med Res Methodol 2013;13:33, method 3.)

    Args:
        times: (N,) follow-up times.
        events: (N,) True if the event was observed.
        predicted: (N,) predicted probability of an event by `horizon`.
        horizon: The time, in the unit of `times`.

    Returns:
        Up to five groups of equal size, each with ten patients or more. For a group that is completely censored before
        the horizon, the last estimate is used.
    """
    count = int(np.clip(len(times) // _FEWEST_PATIENTS, 1, _MOST_GROUPS))
    groups = np.array_split(np.argsort(predicted, kind="stable"), count)
    observed = np.zeros((3, count))
    for number, members in enumerate(groups):
        curve = kaplan_meier(times[members], events[members])
        last = np.searchsorted(curve.times, horizon, side="right") - 1
        observed[:, number] = [1 - each[last] for each in (curve.survival, curve.high, curve.low)]
    means = np.array([predicted[members].mean() for members in groups])
    counts = np.array([len(members) for members in groups], dtype=np.int64)
    return SurvivalCalibration(means, observed[0], observed[1], observed[2], counts)


def calibration_of(result: ModelOutputs, task: Survival, patients: StrArray) -> SurvivalCalibration:
    """Compute the calibration of one model at the middle evaluation time; each patient counts once."""
    slides = mean_outputs(result)
    _, first, index, counts = np.unique(
        patients[slides.rows], return_index=True, return_inverse=True, return_counts=True
    )
    middle = len(task.grid) // 2
    predicted = np.bincount(index, 1 - slides.outputs[:, 1 + middle]) / counts
    rows = slides.rows[first]
    return survival_calibration(task.times[rows], task.events[rows], predicted, float(task.grid[middle]))


def survival_sections(
    results: Sequence[ModelOutputs], task: Survival, styles: Mapping[str, Look], patients: StrArray
) -> list[FigureSection]:
    """Draw Kaplan-Meier curves and, if all models predict probabilities, their calibration."""
    sections = [kaplan_meier_section(results, task, patients)]
    if all(result.folds[0].outputs.shape[1] > 1 for result in results):
        sections.append(survival_calibration_section(results, task, styles, patients))
    return sections


def survival_calibration_section(
    results: Sequence[ModelOutputs], task: Survival, styles: Mapping[str, Look], patients: StrArray
) -> FigureSection:
    """Draw one panel per aggregator: observed against predicted probability of an event, by model."""
    groups = by_aggregator(results)
    names = list(groups)
    horizon = float(task.grid[len(task.grid) // 2])

    def fill(index: int, axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for result in groups[names[index]]:
            look, found = styles[result.model], calibration_of(result, task, patients)
            axes.errorbar(
                found.predicted,
                found.observed,
                [found.observed - found.low, found.high - found.observed],
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                linewidth=1.3,
                elinewidth=0.8,
                label=look.label,
            )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"predicted probability of an event by {horizon:.3g}")
        axes.set_ylabel("observed share (Kaplan–Meier)")
        axes.set_title(short(names[index]))
        axes.legend(loc="upper left")

    title = f"Calibration of survival: observed against predicted probability of an event by time {horizon:.3g}"
    drawn = panels("survival-calibration", title, len(names), fill)
    return FigureSection("Calibration", [CaptionedFigure(drawn, _CAPTION.format(horizon))])
