"""Survival metrics with inverse-probability-of-censoring weights, for many weightings of the cases at once.

Harrell's concordance index depends on the number and times of censored patients; Uno's does not. The Brier score
evaluates the probabilities themselves instead of their order, and the ratio of observed to expected events shows
whether risks are too high or too low overall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.concordance import pairs_of_cases, weighted_concordance
from slpd_toolkit.mil.tasks.derivatives import of_mean, of_pairs, of_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray

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
        steps, censored = np.unique(times[~events], return_counts=True)
        at_risk = len(times) - np.searchsorted(np.sort(times), steps, side="left") - _count_equal(times[events], steps)
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


def _count_equal(times: FloatArray, steps: FloatArray) -> IntArray:
    """Return how many times equal each step."""
    ordered = np.sort(times)
    return np.searchsorted(ordered, steps, side="right") - np.searchsorted(ordered, steps, side="left")


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
    return weighted_concordance(times, events, risks, weights, of_first=_weight_of_event(times, events, censoring, end))


def _weight_of_event(times: FloatArray, events: BoolArray, censoring: Censoring, end: float) -> FloatArray:
    """Return the weight of the pairs of which each case is the first, (N,)."""
    counted = events & (times <= end)
    return np.where(counted, 1 / np.maximum(censoring.before(times), 1e-12) ** 2, 0)


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
    errors = _squared_errors(times, events, survival, censoring, grid)
    return _over_time(_ratio(weights @ errors, weights.sum(axis=1)[:, None]), grid)


def _squared_errors(
    times: FloatArray, events: BoolArray, survival: FloatArray, censoring: Censoring, grid: FloatArray
) -> FloatArray:
    """Return the weighted squared error of each case at each grid time, (N, G)."""
    died = (times[:, None] <= grid) & events[:, None]
    alive = times[:, None] > grid
    of_died = 1 / np.maximum(censoring.before(times), 1e-12)[:, None]
    of_alive = 1 / np.maximum(censoring.up_to(grid), 1e-12)
    errors: FloatArray = survival**2 * died * of_died + (1 - survival) ** 2 * alive * of_alive
    return errors


def _over_time(values: FloatArray, grid: FloatArray) -> FloatArray:
    """Return the mean over the grid times by the trapezoidal rule, (R, G) -> (R,)."""
    if len(grid) == 1:
        return values[:, 0]
    integrated: FloatArray = np.trapezoid(values, grid, axis=1) / (grid[-1] - grid[0])
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
    observed, expected = _observed_and_expected(times, events, survival, grid)
    return _ratio(weights @ observed, weights @ expected)


def _observed_and_expected(
    times: FloatArray, events: BoolArray, survival: FloatArray, grid: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the observed events of each case, 0 or 1, and the expected ones, both (N,)."""
    logs = np.log(np.maximum(survival, _LEAST_SURVIVAL))
    knots, until = np.append(0.0, grid), np.minimum(times, grid[-1])
    hazards = np.array(
        [-np.interp(time, knots, np.append(0.0, log)) for time, log in zip(until, logs, strict=True)], dtype=np.float64
    )
    return (events & (times <= grid[-1])).astype(np.float64), hazards


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


def influences(
    times: FloatArray, events: BoolArray, outputs: FloatArray, censoring: Censoring, grid: FloatArray
) -> dict[str, FloatArray]:
    """Compute the influences of the cases on `weighted_metrics`, (N,) each: exact derivatives at weights of 1.

    The censoring distribution is that of the whole cohort, and is held fixed.

    Args:
        times: (N,) follow-up times.
        events: (N,) true where the event was seen.
        outputs: (N, 1 + G) or (N, 1); see `weighted_metrics`.
        censoring: Distribution of the censoring times of the whole cohort.
        grid: (G,) evaluation times.
    """
    found = {}
    for name, of_first in (("c_index", None), ("uno_c_index", _weight_of_event(times, events, censoring, grid[-1]))):
        pairs = pairs_of_cases(times, events, outputs[:, 0], of_first=of_first)
        found[name] = of_pairs(pairs.right, pairs.known)
    if outputs.shape[1] > 1:
        errors = _over_time(_squared_errors(times, events, outputs[:, 1:], censoring, grid), grid)
        found["integrated_brier_score"] = of_mean(errors)
        found["observed_to_expected"] = of_ratio(*_observed_and_expected(times, events, outputs[:, 1:], grid))
    return found


def martingale_residuals(times: FloatArray, events: BoolArray) -> FloatArray:
    """Compute martingale residuals without covariates, (N,): events minus the Nelson-Aalen cumulative hazard."""
    order = np.sort(times)
    at_risk = len(order) - np.searchsorted(order, times, side="left")
    by_time = np.argsort(times, kind="stable")
    hazards = np.append(0.0, np.cumsum(np.where(events, 1 / at_risk, 0.0)[by_time]))
    residuals: FloatArray = events - hazards[np.searchsorted(order, times, side="right")]
    return residuals


def definitions(grid: FloatArray) -> dict[str, str]:
    """Describe the metrics for readers of the report; `grid` are the evaluation times."""
    return {
        "Concordance index": "Fraction of the pairs in a test fold with a known order that the predicted risks order "
        "correctly (Harrell). Guessing gives 0.5.",
        "Uno's concordance index": "The same for events up to the last evaluation time, with each pair weighted by the "
        "inverse probability of being uncensored, so that it does not depend on the amount of censoring.",
        "Integrated Brier score": "Mean squared error of the predicted survival probabilities over the evaluation "
        f"times {grid[0]:.3g} to {grid[-1]:.3g}, weighted for censoring. Lower is better; always predicting 0.5 gives "
        "0.25.",
        "Observed / expected events": "Ratio of observed events to those expected from the predicted risks, up to the "
        "last evaluation time. 1 means calibrated overall; above 1, the predicted risks are too low.",
    }
