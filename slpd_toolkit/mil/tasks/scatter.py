"""Figure for regression: observed against predicted values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from slpd_toolkit.core.figures.number_format import number, short
from slpd_toolkit.core.figures.pictures import GREY, panels
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.tasks.figure_sections import CaptionedFigure, FigureSection
from slpd_toolkit.mil.tasks.predictions import by_aggregator, mean_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from slpd_toolkit.core.figures.pictures import Look, Picture
    from slpd_toolkit.mil.arrays import FloatArray, StrArray
    from slpd_toolkit.mil.tasks.kinds.regression import Regression
    from slpd_toolkit.mil.tasks.predictions import ModelOutputs

_LEVEL = 0.95
_CAPTION = (
    "One dot per patient: predictions are averaged over its slides and the folds that tested it. Dotted: equal values. "
    "Line: least squares of observed on predicted values, with its pointwise 95 % confidence band; a calibrated model "
    "has the dotted line within the band. Numbers: means over test folds."
)


def patient_means(result: ModelOutputs, task: Regression, patients: StrArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean prediction and the value of each tested patient, both (n,)."""
    found = mean_outputs(result)
    _, first, index = np.unique(patients[found.rows], return_index=True, return_inverse=True)
    predicted: FloatArray = np.bincount(index, found.outputs[:, 0]) / np.bincount(index)
    return predicted, task.values[found.rows[first]]


def line_with_band(x: FloatArray, y: FloatArray, at: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit y on x by least squares, and return the line and the half-width of its pointwise 95 % band at `at`.

    The half-width is t * s * sqrt(1 / n + (x - mean)^2 / sum of squares), with n - 2 degrees of freedom.
    """
    centred, squares = x - x.mean(), float(((x - x.mean()) ** 2).sum())
    slope = float((centred * y).sum()) / squares
    residuals = y - y.mean() - slope * centred
    error = np.sqrt((residuals**2).sum() / (len(x) - 2))
    half = stats.t.ppf((1 + _LEVEL) / 2, len(x) - 2) * error * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / squares)
    return y.mean() + slope * (at - x.mean()), half


def scatter_section(
    results: Sequence[ModelOutputs], task: Regression, styles: Mapping[str, Look], patients: StrArray
) -> FigureSection:
    """Draw the predictions of each aggregator."""
    return FigureSection(
        "Observed against predicted values",
        [
            CaptionedFigure(draw_scatter(f"scatter-{name}", group, task, styles, patients), _CAPTION, name, name)
            for name, group in by_aggregator(results).items()
        ],
    )


def draw_scatter(
    name: str, results: Sequence[ModelOutputs], task: Regression, styles: Mapping[str, Look], patients: StrArray
) -> Picture:
    """Draw one panel per model with one aggregator."""

    def fill(index: int, axes: Axes) -> None:
        result = results[index]
        look = styles[result.model]
        predicted, observed = patient_means(result, task, patients)
        both = np.concatenate([predicted, observed])
        ends = np.array([both.min(), both.max()])
        axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
        axes.plot(predicted, observed, look.marker, color=look.colour, markersize=4, alpha=0.6, markeredgewidth=0)
        if len(predicted) > 2 and np.ptp(predicted) > 0:
            at = np.linspace(predicted.min(), predicted.max(), 60)
            line, half = line_with_band(predicted, observed, at)
            axes.plot(at, line, color=look.colour, linewidth=1.5)
            axes.fill_between(at, line - half, line + half, color=look.colour, alpha=0.15, linewidth=0)
        rho, r2 = (number(mean_and_sd(result.values[metric])[0], digits=2) for metric in ("spearman", "r2"))
        axes.set_title(f"{short(result.model)}: ρ {rho}, R² {r2}")
        axes.set_xlabel("predicted")
        axes.set_ylabel("observed")

    title = f"Observed against predicted values, {results[0].aggregator}"
    return panels(name, title, len(results), fill)
