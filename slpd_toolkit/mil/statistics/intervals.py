"""95 % intervals of a metric's mean over folds, and of the difference between two models.

The variance has two sources: the choice of tested patients, estimated from the influence of each patient (`influence`),
and that of training patients that folds share (`shared_training`). If whole sites were split, there are too
few units for influences, and the variance between folds is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.influence import variance_of_mean
from slpd_toolkit.mil.statistics.shared_training import fold_variance_factor, inflation, largest_inflation

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.division import Division
    from slpd_toolkit.mil.tasks.task import Scale

LEVEL = 0.95
FEWEST_SITES = 6
_FEWEST_CASES_SHARE = 4.0
_FEW_FOLDS = 5
_WEIGHT_OF_BOUND = 1 / 3


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float
    """Upper limit. Both limits are NaN if no interval can be computed; see `reason`."""
    units: int = 0
    """Number of patients or sites that it is based on."""
    conservative: bool = False
    """Whether it is wider than necessary and covers more than 95 %: see `uncertainty`."""
    reason: str = ""


@dataclass(frozen=True)
class Uncertainty:
    """Standard error of a mean over folds."""

    variance: float
    """Standard error; NaN if it cannot be estimated."""
    degrees: float
    """Degrees of freedom."""
    inflation: float = 0.0
    """Variance added because folds share training patients, as a fraction of the rest."""
    conservative: bool = False
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Values of one metric in J folds, for one model or the difference of two, with what determines their variance."""

    values: FloatArray
    """(J,) values of the metric, or of the difference."""
    influence: FloatArray
    """(J, U) influence of each unit on the value."""
    contributions: FloatArray
    """(J, U) contribution of each unit by ranks, see `shared_training.inflation`."""
    unexplained: float
    """Fraction of the variance of the targets that is not explained by the predictions, 0 to 1."""
    linear: bool = True
    """Whether the head is linear, so that effects of single training patients on a tested patient add up."""


def uncertainty(evidence: Evidence, division: Division) -> Uncertainty:
    """Estimate the variance of the mean over folds.

    It is marked as conservative if intervals cover more than 95 % in simulations: for heads that are not linear,
    without repeats, when the effect of shared training patients can only be bounded, and by site with repeats or fewer
    than 5 folds.
    A single split is never marked.

    Args:
        evidence: Values and influences; folds in which the metric is undefined (NaN) are left out.
        division: Units that each split trains on and tests.
    """
    found = _of_units(evidence, division)
    return replace(found, conservative=bool(found.conservative or (found.inflation > 0 and not evidence.linear)))


def _of_units(evidence: Evidence, division: Division) -> Uncertainty:
    defined = ~np.isnan(evidence.values)
    units = int(division.tested.any(axis=0).sum())
    if not defined.any():
        return Uncertainty(math.nan, math.nan, reason="the metric is undefined in all folds")
    if division.by_site:
        return _of_folds(evidence.values, division, units)
    spread = variance_of_mean(evidence.influence[defined], division.tested[defined], division.strata)
    if math.isnan(spread.variance):
        return Uncertainty(math.nan, math.nan, reason="no fold tests two patients of each class")
    bound = largest_inflation(division) * evidence.unexplained
    shared = inflation(evidence.contributions, division)
    bounded = math.isnan(shared)
    # The estimate is noisy, and ignores the average effect of training patients.
    shared = bound if bounded else (1 - _WEIGHT_OF_BOUND) * shared + _WEIGHT_OF_BOUND * bound
    return Uncertainty(spread.variance * (1 + shared), spread.degrees, shared, bool(bounded and shared > 0))


def uncertainty_of_difference(evidence: Evidence, division: Division) -> Uncertainty:
    """Estimate the variance of the mean over folds of a difference between two models.

    The same as `uncertainty`, but by site always marked as conservative, because equal models are found to differ in
    only 2 to 4 % of simulated cohorts.
    """
    found = uncertainty(evidence, division)
    return replace(found, conservative=found.conservative or division.by_site)


def _of_folds(values: FloatArray, division: Division, sites: int) -> Uncertainty:
    """Estimate the variance of the mean from the variance between folds, for splits by site.

    Uses Nadeau and Bengio's correction with the factor implied by the splits. The degrees of freedom are those of one
    repeat, because all repeats divide the same sites.
    """
    if sites < FEWEST_SITES:
        reason = f"{sites} sites are too few; at least {FEWEST_SITES} are needed"
        return Uncertainty(math.nan, math.nan, reason=reason)
    variances = [
        np.var(defined, ddof=1)
        for repeat in np.unique(division.repeats)
        if len(defined := values[(division.repeats == repeat) & ~np.isnan(values)]) > 1
    ]
    if not variances:
        return Uncertainty(math.nan, math.nan, reason="the metric is defined in fewer than two folds")
    factor = fold_variance_factor(division)
    variance = float(np.mean(variances)) * factor / division.folds
    conservative = len(variances) > 1 or division.folds < _FEW_FOLDS
    return Uncertainty(variance, division.folds - 1, factor - 1, conservative)


def interval_of_mean(evidence: Evidence, division: Division, *, scale: Scale = "share") -> Interval:
    """95 % interval of a metric's mean over folds, on a scale without ends: logit, or the logarithm for a ratio.

    Args:
        evidence: The folds of one model.
        division: Units that each split trains on and tests.
        scale: Range of the metric: see `Metric.scale`.
    """
    found = uncertainty(evidence, division)
    units = int(division.tested.any(axis=0).sum())
    if math.isnan(found.variance):
        return Interval(math.nan, math.nan, units, reason=found.reason)
    mean, _ = mean_and_sd(evidence.values)
    if scale == "ratio":
        low, high = _above_zero(mean, found)
        return Interval(low, high, units, found.conservative)
    if scale == "explained":  # 1 minus a ratio of squared errors
        low, high = _above_zero(1 - mean, found)
        return Interval(1 - high, 1 - low, units, found.conservative)
    least = -1.0 if scale == "agreement" else 0.0
    low, high = _between_ends((mean - least) / (1 - least), found, least, effective_cases(division))
    return Interval(least + (1 - least) * low, least + (1 - least) * high, units, found.conservative)


def interval_of_difference(evidence: Evidence, division: Division) -> Interval:
    """Compute the 95 % interval of the mean over folds of a difference between two models."""
    found = uncertainty_of_difference(evidence, division)
    units = int(division.tested.any(axis=0).sum())
    if math.isnan(found.variance):
        return Interval(math.nan, math.nan, units, reason=found.reason)
    mean, _ = mean_and_sd(evidence.values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, found.degrees)) * math.sqrt(found.variance)
    return Interval(mean - half, mean + half, units, found.conservative)


def _above_zero(mean: float, found: Uncertainty) -> tuple[float, float]:
    if mean <= 0:
        return 0.0, math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, found.degrees)) * math.sqrt(found.variance) / mean
    return mean * math.exp(-half), mean * math.exp(half)


def _between_ends(share: float, found: Uncertainty, least: float, cases: float) -> tuple[float, float]:
    """Compute an interval within 0 and 1.

    At 0 or 1, where influences vanish, it is the exact binomial bound (Clopper & Pearson, Biometrika 1934;26:404) for
    the number of cases tested by the folds. Close to 0 or 1, if the variance is below a quarter of the binomial
    variance of that many cases, it is the score interval with four times as many cases (Wilson, JASA 1927;22:209).
    """
    rounding = 1e-9
    tail = (1 - LEVEL) / 2
    if share >= 1 - rounding:
        return float(tail ** (1 / cases)), 1.0
    if share <= rounding:
        return 0.0, float(1 - tail ** (1 / cases))
    binomial = share * (1 - share)
    variance, quantile = found.variance / (1 - least) ** 2, float(stats.t.ppf(1 - tail, found.degrees))
    if variance < binomial / (_FEWEST_CASES_SHARE * cases):
        added = quantile**2 / (_FEWEST_CASES_SHARE * cases)
        middle, half = share + added / 2, math.sqrt(added * (binomial + added / 4))
        return (middle - half) / (1 + added), (middle + half) / (1 + added)
    half = quantile * math.sqrt(variance) / binomial
    return float(expit(logit(share) - half)), float(expit(logit(share) + half))


def effective_cases(division: Division) -> float:
    """Return the number of tested units, reduced if classes are unequal: for two classes 4 / (1 / m + 1 / n)."""
    tested = division.tested.any(axis=0)
    _, counts = np.unique(division.strata[tested], return_counts=True)
    return float(len(counts) ** 2 / (1 / counts).sum())
