"""Paired tests of two models on the same folds, and the correction for multiple tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.intervals import effective_cases, uncertainty, uncertainty_of_difference

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray
    from slpd_toolkit.mil.statistics.division import Division
    from slpd_toolkit.mil.statistics.intervals import Evidence

_ROUNDING = 1e-12
_PERFECT = 1e-9
_LARGEST_INFLATION = 1.0


@dataclass(frozen=True)
class PairedTest:
    """Result of a two-sided test; NaN if undefined."""

    statistic: float
    p_value: float
    inflation: float = 0.0
    """Variance added because folds share training patients, as a fraction of the rest."""
    conservative: bool = False
    """Whether it rejects fewer than 5 % of true null hypotheses at the 5 % level: see `intervals.uncertainty`."""


def corrected_t_test(differences: FloatArray, test_train_ratio: float) -> PairedTest:
    """Compute Nadeau and Bengio's corrected resampled t-test of differences between two models on the same splits.

    Training sets of different folds overlap, so that the variance of folds underestimates that of their mean; the
    correction adds the ratio of test to training size:

        t = mean(d) / sqrt((1 / J + n_test / n_train) * var(d)),  J - 1 degrees of freedom.

    (Nadeau & Bengio, Machine Learning 2003;52:239; for repeated folds Bouckaert & Frank, PAKDD 2004.)

    Args:
        differences: (J,) metric of one model minus that of the other, for each fold of each repeat; NaN are left out.
        test_train_ratio: n_test / n_train of a split.
    """
    defined = differences[~np.isnan(differences)]
    count = len(defined)
    if count < 2:
        return PairedTest(float("nan"), float("nan"))
    spread = np.sqrt((1 / count + test_train_ratio) * defined.var(ddof=1))
    mean = float(defined.mean())
    if spread <= _ROUNDING:
        # Equal differences in a few folds do not prove that others would be equal; there is no variance to test with.
        return PairedTest(0.0, 1.0) if abs(mean) <= _ROUNDING else PairedTest(float("nan"), float("nan"))
    statistic = mean / float(spread)
    return PairedTest(statistic, float(2 * stats.t.sf(abs(statistic), count - 1)), conservative=True)


def shared_training_test(evidence: Evidence, division: Division) -> PairedTest:
    """Compute a t-test of the mean difference over folds, with the variance of `intervals.uncertainty_of_difference`.

    It tests whether the difference would be expected with other training and test patients from the same population.

    Args:
        evidence: Differences between two models on the same splits.
        division: Units that each split trains on and tests.

    Returns:
        p = 1 without any difference; NaN if there is no variance to test with.
    """
    found = uncertainty_of_difference(evidence, division)
    mean, _ = mean_and_sd(evidence.values)
    if found.variance <= _ROUNDING**2:
        return PairedTest(0.0, 1.0) if abs(mean) <= _ROUNDING else PairedTest(float("nan"), float("nan"))
    statistic = mean / math.sqrt(found.variance)
    p_value = float(2 * stats.t.sf(abs(statistic), found.degrees))
    return PairedTest(statistic, p_value, found.inflation, found.conservative)


def chance_test(evidence: Evidence, division: Division, chance: float, least: float = 0.0) -> PairedTest:
    """Compute a t-test of a metric's mean over folds against the value of guessing, with the variance of its interval.

    If the mean is 1, the variance vanishes, and the test is the exact binomial one that the interval corresponds to.

    Args:
        evidence: Values of one model.
        division: Units that each split trains on and tests.
        chance: Value of guessing.
        least: Lowest value of the metric; the highest is 1.

    Returns:
        NaN if there is no variance to test with.
    """
    found = uncertainty(evidence, division)
    mean, _ = mean_and_sd(evidence.values)
    if mean >= 1 - _PERFECT and not math.isnan(found.variance):
        share = (chance - least) / (1 - least)
        p_value = min(1.0, 2 * share ** effective_cases(division))
        return PairedTest(float("inf"), p_value, found.inflation, found.conservative)
    if not found.variance > _ROUNDING**2:
        return PairedTest(float("nan"), float("nan"))
    statistic = (mean - chance) / math.sqrt(found.variance)
    p_value = float(2 * stats.t.sf(abs(statistic), found.degrees))
    return PairedTest(statistic, p_value, found.inflation, found.conservative)


def draw_swaps(units: int, permutations: int, rng: np.random.Generator) -> BoolArray:
    """Draw whether two models swap their predictions for each patient or site, (R, U), with probability 1/2."""
    return rng.random((permutations, units)) < 0.5


def inflation_of_swaps(test: PairedTest, division: Division) -> tuple[float, bool]:
    """Return the variance that swaps miss because folds share training units, and whether it is conservative.

    There are too few sites to estimate it; the largest possible value is used, which is attained with many repeats.

    Args:
        test: `shared_training_test` of the same difference.
        division: Units that each split trains on and tests.
    """
    if division.by_site or math.isnan(test.p_value):
        return _LARGEST_INFLATION, len(np.unique(division.repeats)) == 1
    return test.inflation, test.conservative


def permutation_test(observed: float, permuted: FloatArray) -> PairedTest:
    """Compute the two-sided p-value of a difference among those of permutations; it counts itself, so p is never 0.

    (Phipson & Smyth, Stat Appl Genet Mol Biol 2010;9:39.)

    Args:
        observed: The difference.
        permuted: (R,) differences after random swaps; NaN are left out.
    """
    if np.isnan(observed):
        return PairedTest(float("nan"), float("nan"))
    defined = permuted[~np.isnan(permuted)]
    as_extreme = int((np.abs(defined) >= abs(observed) - _ROUNDING).sum())
    return PairedTest(observed, (as_extreme + 1) / (len(defined) + 1))


def delong_covariance(positive: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute the areas under the ROC curve of K models on the same cases, and their covariance.

    With midranks among all cases and within one class, the contribution of each case to the area takes O(N log N):

        V10_i = (rank_i among all - rank_i among positives) / n_negatives
        V01_j = 1 - (rank_j among all - rank_j among negatives) / n_positives
        covariance = cov(V10) / n_positives + cov(V01) / n_negatives

    (DeLong et al., Biometrics 1988;44:837; fast form: Sun & Xu, IEEE Signal Processing Letters 2014;21:1389.)

    Args:
        positive: (N,) bool, with at least two cases of each class. Cases must be independent: one per patient.
        scores: (K, N), higher means more likely positive.

    Returns:
        (K,) and (K, K).
    """
    ranks = stats.rankdata(scores, axis=1)
    of_positives = ranks[:, positive] - stats.rankdata(scores[:, positive], axis=1)
    of_negatives = ranks[:, ~positive] - stats.rankdata(scores[:, ~positive], axis=1)
    positives, negatives = of_positives.shape[1], of_negatives.shape[1]
    v10, v01 = of_positives / negatives, 1 - of_negatives / positives
    return v10.mean(axis=1), np.cov(v10) / positives + np.cov(v01) / negatives


def delong_test(positive: BoolArray, scores: FloatArray) -> PairedTest:
    """Compute DeLong's test for two models on one test set.

    Conditional on the heads, and valid for a single split only: heads of different folds share training patients that
    are tested in other folds, so that the variances of folds cannot be added (see `shared_training`).

    Args:
        positive: (N,) bool.
        scores: (2, N) scores of the two models.

    Returns:
        z of the difference, first model minus second; p = 1 without any difference. NaN with fewer than two cases of a
        class, or if the variance is 0 although the areas differ.
    """
    if min(positive.sum(), (~positive).sum()) < 2:
        return PairedTest(float("nan"), float("nan"))
    areas, covariance = delong_covariance(positive, scores)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= _ROUNDING:
        return PairedTest(0.0, 1.0) if abs(difference) <= _ROUNDING else PairedTest(float("nan"), float("nan"))
    z = difference / float(np.sqrt(variance))
    return PairedTest(z, float(2 * stats.norm.sf(abs(z))))


def holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values by Holm's step-down method (Scand J Stat 1979;6:65). NaN stay NaN and are not counted."""
    defined = np.flatnonzero(~np.isnan(p_values))
    order = defined[np.argsort(p_values[defined])]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
