"""Covariance of the folds of a cross-validation due to patients that are trained on in one fold and tested in another.

Let k(i, j) be the change in the contribution of patient i, when tested, if patient j is added to the training set. A
pair of patients affects a cross-validated metric twice, as (i tested, j trained) and as (j tested, i trained), and the
two effects are correlated: for a linear head both are proportional to the inner product of the two embeddings. The
variance by influences treats the two directions as independent. With w(i, j) the fraction of the folds testing i that
train on j, it therefore misses

    sum over i, j of w(i, j) w(j, i) k(i, j) k(j, i).

Without any signal this is as large as the rest, and an interval without it covers 83 % instead of 95 %. If patients are
tested in several folds with different training sets, k(i, j) can be estimated by regression on whether j was trained
on; the estimate is noisy for a single pair, but not for the sum over all pairs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.special import ndtri

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.division import Division

_BLOCK = 1024
"""Units whose pairs of splits are in memory at once."""
_LEAST_FACTOR = 1.5


def normal_scores(scores: FloatArray) -> FloatArray:
    """Convert (n, S) scores of a fold to normal quantiles of their ranks, column by column; ties get their mean rank.

    Heads of different folds differ in scale and offset, so that only the order within a fold matters.
    """
    ranks: FloatArray = ndtri((stats.rankdata(scores, axis=0) - 0.5) / len(scores))
    return ranks


def largest_inflation(division: Division) -> float:
    """Compute an upper bound of `inflation` from the splits only, as if pairs of units affected each other equally.

    It is 0 for a single split, in which no patient is both trained on and tested.
    """
    shares = division.shares_trained()
    total = _sum_of_squares(*shares)
    return _sum_of_exchanges(*shares) / total if total else 0.0


def inflation(contributions: FloatArray, division: Division) -> float:
    """Estimate the variance missing from the variance by influences, from units that are tested in several folds.

    Args:
        contributions: (J, U) contribution of each unit to the metric of each fold, on any scale; 0 if it is not
            tested.
        division: Units that each split trains on and tests.

    Returns:
        0 to 1: the variance is (1 + this) times that by influences. NaN if no unit is tested with different training
        sets: see `largest_inflation`.
    """
    tested = division.tested.astype(np.float64)
    counts = np.maximum(tested.sum(axis=0), 1)
    mean = contributions.sum(axis=0) / counts
    deviations = (contributions - mean) * tested
    averaged, trained = division.shares_trained()
    product = _sum_of_exchanges(deviations / counts, trained)
    weight = _sum_of_exchanges(averaged, trained)
    spread = _sum_of_spreads(averaged, trained)
    total = float((mean**2).sum())
    if spread < 1e-9 * max(weight, 1) or total <= 0:
        return float("nan")
    return float(np.clip(product / spread * weight / total, 0, 1))


def fold_variance_factor(division: Division) -> float:
    """Compute the factor c in var(mean over folds) = c / K * var(folds of one repeat), with K folds per repeat.

    For K = 5 with a validation fold it is 2.0 for one repeat and 1.55 for five; Nadeau and Bengio's 1 + K * n_test /
    n_train is 2.67 and 1.87. It is at least 1.5, because with few sites per fold the metric varies more than its folds
    show.
    """
    shares = division.shares_trained()
    first = division.repeats == division.repeats[0]
    one = replace(
        division, trained=division.trained[first], tested=division.tested[first], repeats=division.repeats[first]
    )
    total = float(shares[0].sum(axis=1) @ shares[1].sum(axis=1))
    narrowing = _sum_of_squares(*shares) / total if total else 1.0
    between = largest_inflation(one) / max(division.folds - 1, 1)
    return max(narrowing * (1 + largest_inflation(division)) / (1 - between), _LEAST_FACTOR)


def _sum_of_squares(left: FloatArray, right: FloatArray) -> float:
    """Sum of w(i, j)^2 over all pairs of units, where w = left.T @ right, without the (U, U) matrix."""
    return float(((left @ left.T) * (right @ right.T)).sum())


def _sum_of_exchanges(left: FloatArray, right: FloatArray) -> float:
    """Sum of w(i, j) w(j, i) over all pairs of units, where w = left.T @ right, without the (U, U) matrix."""
    between = right @ left.T
    return float((between * between.T).sum())


def _sum_of_spreads(left: FloatArray, right: FloatArray) -> float:
    """Sum of v(i, j) v(j, i) over all pairs of units, where v = w (1 - w) and w = left.T @ right.

    The square of w is the product of all pairs of splits, (J * J, U). With fewer units than pairs of splits, w itself
    is smaller.
    """
    splits, units = left.shape
    if units <= splits**2:
        shares = left.T @ right
        variances = shares * (1 - shares)
        return float((variances * variances.T).sum())
    between = right @ left.T
    mixed, squared = np.zeros((splits, splits**2)), np.zeros((splits**2, splits**2))
    mixed_back = np.zeros((splits**2, splits))
    for start in range(0, units, _BLOCK):
        some_left, some_right = left[:, start : start + _BLOCK], right[:, start : start + _BLOCK]
        left_pairs, right_pairs = (
            (each[:, None] * each[None]).reshape(splits**2, -1) for each in (some_left, some_right)
        )
        mixed += some_right @ left_pairs.T
        mixed_back += right_pairs @ some_left.T
        squared += right_pairs @ left_pairs.T
    return float((between * between.T).sum() - 2 * (mixed * mixed_back.T).sum() + (squared * squared.T).sum())
