"""Is one model better than another on the same folds? Paired tests, and the correction for testing often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray

_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test. NaN where it is undefined."""

    statistic: float
    p_value: float


def corrected_t_test(differences: FloatArray, test_train_ratio: float) -> PairedTest:
    """Nadeau and Bengio's corrected resampled t-test of differences between two models on the same splits.

    Training sets of different folds overlap, so the folds' variance alone understates that of their mean; the
    correction adds the ratio of test to training size:

        t = mean(d) / sqrt((1 / J + n_test / n_train) * var(d)),  J - 1 degrees of freedom.

    (Nadeau & Bengio, Machine Learning 2003;52:239; for repeated folds Bouckaert & Frank, PAKDD 2004.)

    Args:
        differences: (J,) metric of one model minus that of the other, for each fold of each repeat. NaN is left out.
        test_train_ratio: n_test / n_train of a split.
    """
    defined = differences[~np.isnan(differences)]
    count = len(defined)
    if count < 2:
        return PairedTest(float("nan"), float("nan"))
    spread = np.sqrt((1 / count + test_train_ratio) * defined.var(ddof=1))
    mean = float(defined.mean())
    if spread == 0:
        return PairedTest(0.0 if mean == 0 else float(np.copysign(np.inf, mean)), 1.0 if mean == 0 else 0.0)
    statistic = mean / float(spread)
    return PairedTest(statistic, float(2 * stats.t.sf(abs(statistic), count - 1)))


def draw_swaps(patients: int, permutations: int, rng: np.random.Generator) -> BoolArray:
    """(R, P) whether two models trade their predictions for a patient: a fair coin each."""
    return rng.random((permutations, patients)) < 0.5


def permutation_test(observed: float, permuted: FloatArray) -> PairedTest:
    """Two-sided p-value of a difference among those of permutations, the observed one counted in, so never 0.

    (Phipson & Smyth, Stat Appl Genet Mol Biol 2010;9:39.)

    Args:
        observed: The difference.
        permuted: (R,) differences after random swaps. NaN is left out.
    """
    if np.isnan(observed):
        return PairedTest(float("nan"), float("nan"))
    defined = permuted[~np.isnan(permuted)]
    as_extreme = int((np.abs(defined) >= abs(observed) - _ROUNDING).sum())
    return PairedTest(observed, (as_extreme + 1) / (len(defined) + 1))


def delong_covariance(positive: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Areas under the ROC curve of K models on the same cases, and the covariance of these areas.

    With midranks among all cases and among those of one class, each case's share in the area comes out in O(N log N):

        V10_i = (rank_i among all - rank_i among positives) / n_negatives
        V01_j = 1 - (rank_j among all - rank_j among negatives) / n_positives
        covariance = cov(V10) / n_positives + cov(V01) / n_negatives

    (DeLong et al., Biometrics 1988;44:837; fast form: Sun & Xu, IEEE Signal Processing Letters 2014;21:1389.)

    Args:
        positive: (N,) two cases of either class or more. Cases are independent: one a patient.
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


def delong_test(folds: Sequence[tuple[BoolArray, FloatArray, FloatArray]]) -> PairedTest:
    """DeLong's test for two models, over test folds that share no patient.

    Within a fold it is DeLong's; differences and variances of independent folds add up. The heads count as given: what
    another training set would have changed is not in this p-value (it is in `corrected_t_test`).

    Args:
        folds: For each fold what was positive (N_f,), and the scores (N_f,) of either model. Folds with fewer than two
            cases of a class are left out.

    Returns:
        z of the summed difference, first model minus second; models without any difference get p = 1. NaN where no
        fold can be used, or both models rank every case alike and yet differ.
    """
    usable = [fold for fold in folds if min(fold[0].sum(), (~fold[0]).sum()) >= 2]
    estimates = [delong_covariance(positive, np.stack([first, second])) for positive, first, second in usable]
    difference = float(sum(areas[0] - areas[1] for areas, _ in estimates))
    variance = float(sum(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1] for _, covariance in estimates))
    if variance <= _ROUNDING:
        unchanged = bool(usable) and abs(difference) <= _ROUNDING
        return PairedTest(0.0, 1.0) if unchanged else PairedTest(float("nan"), float("nan"))
    z = difference / float(np.sqrt(variance))
    return PairedTest(z, float(2 * stats.norm.sf(abs(z))))


def holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values for their number, step down (Holm, Scand J Stat 1979;6:65). NaN stays NaN and does not count."""
    defined = np.flatnonzero(~np.isnan(p_values))
    order = defined[np.argsort(p_values[defined])]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
