"""Survival metrics with inverse-probability-of-censoring weights, for many weightings of the cases at once.

Harrell's concordance index depends on the number and times of censored patients; Uno's does not. The Brier score
evaluates the probabilities themselves instead of their order, and the ratio of observed to expected events shows
whether risks are too high or too low overall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.concordance import weighted_concordance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray

_GRID = 16
_QUANTILES = (0.1, 0.9)
_LEAST_UNCENSORED = 0.1
_LEAST_SURVIVAL = 1e-4


@dataclass(frozen=True, eq=False)
class Censoring:
    """Kaplan-Meier estimate of the probability of being uncensored up to a time."""

    times: FloatArray
    """(K,) ascending times at which a patient is censored."""
    uncensored: FloatArray
    """(K,) probability of being uncensored beyond each."""

    @classmethod
    def of(cls, times: FloatArray, events: BoolArray) -> Censoring:
        """Estimate the distribution; at equal times, events precede censoring."""
        steps = np.unique(times[~events])
        at_risk = (times[None, :] >= steps[:, None]).sum(axis=1) - ((times[None, :] == steps[:, None]) & events).sum(
            axis=1
        )
        censored = ((times[None, :] == steps[:, None]) & ~events).sum(axis=1)
        return cls(steps, np.cumprod(1 - censored / np.maximum(at_risk, 1)))

    def before(self, times: FloatArray) -> FloatArray:
        """Return the probability of being uncensored until just before each time."""
        return self._at(np.searchsorted(self.times, times, side="left"))

    def up_to(self, times: FloatArray) -> FloatArray:
        """Return the probability of being uncensored up to and including each time."""
        return self._at(np.searchsorted(self.times, times, side="right"))

    def _at(self, steps: NDArray[np.integer]) -> FloatArray:
        values: FloatArray = np.append(1.0, self.uncensored)[steps]
        return values


@dataclass(frozen=True, eq=False)
class SurvivalGrid:
    """Interpolation from survival probabilities at the ends of time bins to those at the evaluation times."""

    knots: FloatArray
    """(J + 1,) 0, the inner edges of J bins, and the last training time, used as the end of the last bin."""
    times: FloatArray
    """(G,) evaluation times."""

    def interpolate(self, survival: FloatArray) -> FloatArray:
        """Interpolate the probability of passing each bin, (n, J) -> (n, G): linear, and constant after the last.

        (Kvamme & Borgan, Lifetime Data Anal 2021;27:710: constant density interpolation.)
        """
        values = np.hstack([np.ones((len(survival), 1)), survival])
        curves: FloatArray = np.stack([np.interp(self.times, self.knots, row) for row in values])
        return curves


def evaluation_times(times: FloatArray, events: BoolArray) -> FloatArray:
    """Choose the times at which survival probabilities are evaluated.

    They are quantiles of the observed event times between 10 % and 90 %, up to the time at which fewer than 10 % are
    uncensored; beyond it, a few patients would have all the weight.

    Args:
        times: (N,) follow-up times.
        events: (N,) true where the event was observed.

    Returns:
        (G,) ascending, G between 1 and 16.
    """
    quantiles = np.unique(np.quantile(times[events], np.linspace(*_QUANTILES, _GRID)))
    usable = Censoring.of(times, events).up_to(quantiles) >= _LEAST_UNCENSORED
    chosen: FloatArray = quantiles[usable] if usable.any() else quantiles[:1]
    return chosen


def uno_concordance(
    times: FloatArray, events: BoolArray, risks: FloatArray, weights: FloatArray, censoring: Censoring, end: float
) -> FloatArray:
    """Compute Uno's concordance index for R weightings; pairs are weighted by their probability of being uncensored.

    (Uno et al., Stat Med 2011;30:1105.)

    Args:
        times: (N,) follow-up times.
        events: (N,) true where the event was observed.
        risks: (N,) higher means an earlier event.
        weights: (R, N) weights of the cases.
        censoring: Censoring distribution of the whole cohort.
        end: Time after which events are ignored.

    Returns:
        (R,) 0 to 1; NaN without a comparable pair.
    """
    counted = events & (times <= end)
    uncensored = censoring.before(times)
    inverse = np.where(counted, 1 / np.maximum(uncensored, 1e-12) ** 2, 0)
    return weighted_concordance(times, events, risks, weights, of_first=inverse)


def integrated_brier_score(
    times: FloatArray,
    events: BoolArray,
    survival: FloatArray,
    weights: FloatArray,
    censoring: Censoring,
    grid: FloatArray,
) -> FloatArray:
    """Compute the mean over time of the squared error of survival probabilities, for R weightings. Lower is better.

        BS(t) = mean( S(t)^2 [T <= t, event] / G(T-)  +  (1 - S(t))^2 [T > t] / G(t) )

    A constant prediction of 0.5 gives 0.25. (Graf et al., Stat Med 1999;18:2529.)

    Args:
        times: (N,) follow-up times.
        events: (N,) true where the event was observed.
        survival: (N, G) predicted probability of no event up to each grid time.
        weights: (R, N) weights of the cases.
        censoring: Censoring distribution of the whole cohort.
        grid: (G,) ascending times; the mean uses the trapezoidal rule.

    Returns:
        (R,); NaN if all weights are 0.
    """
    died = (times[:, None] <= grid) & events[:, None]
    alive = times[:, None] > grid
    of_died = 1 / np.maximum(censoring.before(times), 1e-12)[:, None]
    of_alive = 1 / np.maximum(censoring.up_to(grid), 1e-12)
    errors = survival**2 * died * of_died + (1 - survival) ** 2 * alive * of_alive
    scores = _ratio(weights @ errors, weights.sum(axis=1)[:, None])
    if len(grid) == 1:
        return scores[:, 0]
    integrated: FloatArray = np.trapezoid(scores, grid, axis=1) / (grid[-1] - grid[0])
    return integrated


def observed_to_expected(
    times: FloatArray, events: BoolArray, survival: FloatArray, weights: FloatArray, grid: FloatArray
) -> FloatArray:
    """Compute the ratio of observed to expected events up to the last grid time, for R weightings.

    1 means calibrated overall; above 1, the predicted risks are too low. The expected number is the sum of the
    cumulative hazards at the time of each patient: the martingale residuals of a calibrated model sum to 0 (Crowson,
    Atkinson & Therneau, Stat Methods Med Res 2016;25:1692).

    Args:
        times: (N,) follow-up times.
        events: (N,) true where the event was observed.
        survival: (N, G) predicted probability of no event up to each grid time.
        weights: (R, N) weights of the cases.
        grid: (G,) ascending times, between which log survival is interpolated linearly.

    Returns:
        (R,), 0 or more; NaN if no events are expected.
    """
    logs = np.log(np.maximum(survival, _LEAST_SURVIVAL))
    knots, until = np.append(0.0, grid), np.minimum(times, grid[-1])
    hazards = np.array(
        [-np.interp(time, knots, np.append(0.0, log)) for time, log in zip(until, logs, strict=True)], dtype=np.float64
    )
    observed = events & (times <= grid[-1])
    return _ratio(weights @ observed.astype(np.float64), weights @ hazards)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    ratio: FloatArray = np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
    return ratio


def weighted_metrics(
    times: FloatArray,
    events: BoolArray,
    outputs: FloatArray,
    weights: FloatArray,
    censoring: Censoring,
    grid: FloatArray,
) -> dict[str, FloatArray]:
    """Compute all metrics of survival predictions, for each of W weightings of the cases.

    Args:
        times: (N,) follow-up times.
        events: (N,) true where the event was seen.
        outputs: (N, 1 + G) risks and survival probabilities on the grid; (N, 1) if the model predicts risks only.
        weights: (W, N) weights of the cases.
        censoring: Distribution of the censoring times of the whole cohort.
        grid: (G,) evaluation times.
    """
    risks = outputs[:, 0]
    found = {
        "c_index": weighted_concordance(times, events, risks, weights),
        "uno_c_index": uno_concordance(times, events, risks, weights, censoring, grid[-1]),
    }
    if outputs.shape[1] > 1:
        curves = outputs[:, 1:]
        found["integrated_brier_score"] = integrated_brier_score(times, events, curves, weights, censoring, grid)
        found["observed_to_expected"] = observed_to_expected(times, events, curves, weights, grid)
    return found


def martingale_residuals(times: FloatArray, events: BoolArray) -> FloatArray:
    """Compute martingale residuals without covariates, (N,): events minus the Nelson-Aalen cumulative hazard."""
    order = np.sort(times)
    at_risk = len(order) - np.searchsorted(order, times, side="left")
    steps = np.where(events, 1 / at_risk, 0.0)
    hazards = np.array([steps[times <= time].sum() for time in times])
    residuals: FloatArray = events - hazards
    return residuals


def definitions(grid: FloatArray) -> dict[str, str]:
    """Describe the metrics for readers of the report; `grid` are the evaluation times."""
    return {
        "Concordance index": "Fraction of the pairs in a test fold with a known order that the predicted risks order "
        "correctly (Harrell). Guessing gives 0.5.",
        "Uno's concordance index": "The same for events up to the last evaluation time, with each pair weighted by the "
        "inverse probability of being uncensored, so that it does not depend on the amount of censoring.",
        "Integrated Brier score": "Mean squared error of the predicted survival probabilities over the evaluation "
        f"times {grid[0]:.3g} to {grid[-1]:.3g}, weighted for censoring. Lower is better; always "
        "predicting 0.5 gives 0.25.",
        "Observed / expected events": "Ratio of observed events to those expected from the predicted risks, up to the "
        "last evaluation time. 1 means calibrated overall; above 1, the predicted risks are too low.",
    }
