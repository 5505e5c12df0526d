"""Figures for every task: the headline metric with its interval, and its value in each fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.figures.number_format import short
from slpd_toolkit.core.figures.pictures import GREY, panels, picture
from slpd_toolkit.mil.fold_values import mean_and_sd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from slpd_toolkit.core.figures.pictures import Look, Picture
    from slpd_toolkit.mil.statistics.results import Result
    from slpd_toolkit.mil.tasks.task import Metric

_MANY_TICKS = 4


def draw_intervals(results: Sequence[Result], headline: str, metric: Metric, styles: Mapping[str, Look]) -> Picture:
    """Draw one row per result: mean over folds and 95 % interval."""

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        for place, result in enumerate(results):
            look, found = styles[result.model], result.intervals[headline]
            mean, _ = mean_and_sd(result.values[headline])
            axes.hlines(place, found.low, found.high, color=look.colour, linewidth=2.2)
            axes.plot([mean], [place], look.marker, color=look.colour, markersize=6, markeredgecolor="white")
        axes.set_yticks(range(len(results)), [f"{styles[each.model].label} · {each.aggregator}" for each in results])
        axes.set_ylim(len(results) - 0.4, -0.6)
        axes.set_xlabel(f"{metric.words}: mean over folds, 95 % interval")
        axes.grid(axis="x", linewidth=0.4, alpha=0.6)
        _mark_chance(axes, metric.chance, "x")

    title = f"{metric.words} of each model and aggregator with its 95 % interval"
    return picture("intervals", title, (8.4, 0.9 + 0.27 * len(results)), fill)


def draw_folds(results: Sequence[Result], headline: str, metric: Metric, styles: Mapping[str, Look]) -> Picture:
    """Draw a dot per fold; lines connect the same fold across models (or across aggregators, for a single model)."""
    models, aggregators = (
        list(dict.fromkeys(getattr(each, name) for each in results)) for name in ("model", "aggregator")
    )
    by_aggregator = len(models) > 1
    names = aggregators if by_aggregator else models
    groups = [
        [each for each in results if name == (each.aggregator if by_aggregator else each.model)] for name in names
    ]
    values = np.concatenate([each.values[headline] for each in results])
    defined = values[np.isfinite(values)]

    def fill(index: int, axes: Axes) -> None:
        group = groups[index]
        folds = [each.values[headline] for each in group]
        shared = min(map(len, folds))  # aggregators with fewer repeats have the first folds only
        axes.plot(
            range(len(group)),
            np.stack([each[:shared] for each in folds]),
            color=GREY,
            linewidth=0.6,
            alpha=0.6,
            zorder=1,
        )
        for place, result in enumerate(group):
            look = styles[result.model]
            axes.plot(
                np.full(len(folds[place]), place),
                folds[place],
                look.marker,
                color=look.colour,
                markersize=5,
                alpha=0.75,
                markeredgewidth=0,
            )
            mean, _ = mean_and_sd(folds[place])
            axes.hlines(mean, place - 0.22, place + 0.22, color="black", linewidth=1.6, zorder=3)
        ticks = [styles[each.model].label if by_aggregator else each.aggregator for each in group]
        crowded = len(ticks) > _MANY_TICKS or max(map(len, ticks)) * len(ticks) > 40
        axes.set_xticks(range(len(group)), ticks, rotation=35 if crowded else 0, ha="right" if crowded else "center")
        axes.set_xlim(-0.5, len(group) - 0.5)
        axes.set_title(short(names[index]))
        axes.set_ylabel(f"{metric.words} in a test fold")
        if len(defined):
            margin = 0.06 * max(float(np.ptp(defined)), 0.02)
            axes.set_ylim(float(defined.min()) - margin, float(defined.max()) + margin)
        _mark_chance(axes, metric.chance, "y")

    title = f"{metric.words} of each fold; bars are means, lines connect the same fold"
    return panels("folds", title, len(groups), fill)


def _mark_chance(axes: Axes, chance: float | None, axis: str) -> None:
    """Mark chance level if it is within the axis limits."""
    if chance is None:
        return
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    if low <= chance <= high:
        line = axes.axvline if axis == "x" else axes.axhline
        line(chance, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
