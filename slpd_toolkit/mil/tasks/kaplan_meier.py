"""Kaplan-Meier estimate and figure for patients with low and high predicted risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from slpd_toolkit.core.figures.number_format import short
from slpd_toolkit.core.figures.pictures import panels
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.tasks.figure_sections import CaptionedFigure, FigureSection
from slpd_toolkit.mil.tasks.predictions import by_aggregator, relative_ranks, risk_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from slpd_toolkit.core.figures.pictures import Picture
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.tasks.kinds.survival import Survival
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

_HALVES = (("low", "#4477aa", "-"), ("high", "#ee6677", "--"))
_CAPTION = (
    "Patients are ranked by predicted risk within their test fold (risks of different heads are never compared; ranks "
    "are averaged over repeats) and split at the median. Lines: Kaplan–Meier estimate; bands: 95 % log-log confidence "
    "bands; ticks: censored. The figure is descriptive; inference is based on the concordance index and its interval."
)
_Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class SurvivalCurve:
    """Kaplan-Meier estimate: a step function starting at time 0 and probability 1, with a 95 % confidence band."""

    times: FloatArray
    """(T,) 0, followed by the event times."""
    survival: FloatArray
    """(T,) probability of surviving beyond each time."""
    low: FloatArray
    high: FloatArray
    """(T,) log-log band from Greenwood's variance; its width is 0 where the estimate is 1 or 0."""


def kaplan_meier(times: FloatArray, events: BoolArray) -> SurvivalCurve:
    """Estimate survival with right censoring.

        S(t) = product over event times t_i <= t of (1 - d_i / n_i),  d_i events among n_i at risk.

    Cases censored at an event time count as at risk. (Kaplan & Meier, J Am Stat Assoc 1958;53:457.)

    Args:
        times: (N,) follow-up times.
        events: (N,) True if the event was observed.
    """
    at, deaths = np.unique(times[events], return_counts=True)
    at_risk = len(times) - np.searchsorted(np.sort(times), at, side="left")
    survival = np.cumprod(1 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_survival = np.log(survival)
        spread = _Z95 * np.sqrt(np.cumsum(deaths / (at_risk * (at_risk - deaths)))) / log_survival
        low, high = survival ** np.exp(-spread), survival ** np.exp(spread)
    inside = (survival > 0) & (survival < 1)
    start = np.ones(1)
    return SurvivalCurve(
        np.concatenate([[0.0], at]),
        np.concatenate([start, survival]),
        np.concatenate([start, np.where(inside, low, survival)]),
        np.concatenate([start, np.where(inside, high, survival)]),
    )


def patient_risk_ranks(result: ModelOutputs, patients: StrArray) -> tuple[IntArray, FloatArray]:
    """Return one slide of each tested patient, (n,), and the patient's mean rank of risk within its test folds."""
    rows, ranks = risk_ranks(result)
    _, first, index = np.unique(patients[rows], return_index=True, return_inverse=True)
    return rows[first], np.bincount(index, ranks) / np.bincount(index)


def kaplan_meier_section(results: Sequence[ModelOutputs], task: Survival, patients: StrArray) -> FigureSection:
    """Draw the Kaplan-Meier curves of each aggregator."""
    return FigureSection(
        "Survival by predicted risk",
        [
            CaptionedFigure(draw_kaplan_meier(f"kaplan-meier-{name}", group, task, patients), _CAPTION, name, name)
            for name, group in by_aggregator(results).items()
        ],
    )


def draw_kaplan_meier(name: str, results: Sequence[ModelOutputs], task: Survival, patients: StrArray) -> Picture:
    """Draw one panel per model with one aggregator: the halves of patients with low and high predicted risk."""

    def fill(index: int, axes: Axes) -> None:
        result = results[index]
        slides, ranks = patient_risk_ranks(result, patients)
        high = relative_ranks(ranks) > 0.5
        end = float(task.times[slides].max())
        ticks = [tick for tick in MaxNLocator(5).tick_values(0, end) if 0 <= tick <= end]
        at_risk = []
        for (half, colour, line), inside in zip(_HALVES, (~high, high), strict=True):
            times, events = task.times[slides[inside]], task.events[slides[inside]]
            at_risk.append([(times >= tick).sum() for tick in ticks])
            label = f"{half} risk: {count(len(times), 'patient')}, {count(events.sum(), 'event')}"
            _draw_curve(axes, times, events, colour, line, label)
        axes.set_ylim(-0.02, 1.18)  # room for the legend
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_xlim(0, end or 1)
        rows = zip(ticks, *at_risk, strict=True)
        axes.set_xticks(ticks, [f"{tick:,g}\n{low}\n{top}" for tick, low, top in rows])
        axes.set_xlabel("time; numbers below: patients at risk (low, high)")
        axes.set_ylabel("probability of survival")
        axes.set_title(short(result.model))
        axes.legend(loc="upper right")

    title = f"Kaplan-Meier curves of the halves with low and high predicted risk, {results[0].aggregator}"
    return panels(name, title, len(results), fill)


def _draw_curve(axes: Axes, times: FloatArray, events: BoolArray, colour: str, line: str, label: str) -> None:
    if not len(times):
        return
    curve = kaplan_meier(times, events)
    end = float(times.max())
    at = np.append(curve.times, end)
    steps = [np.append(each, each[-1]) for each in (curve.survival, curve.low, curve.high)]
    axes.step(at, steps[0], where="post", color=colour, linestyle=line, linewidth=1.6, label=label)
    axes.fill_between(at, steps[1], steps[2], step="post", color=colour, alpha=0.13, linewidth=0)
    censored = np.sort(times[~events])
    height = curve.survival[np.searchsorted(curve.times, censored, side="right") - 1]
    axes.plot(censored, height, "|", color=colour, markersize=5)
