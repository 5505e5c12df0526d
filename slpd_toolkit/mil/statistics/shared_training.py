"""What folds of a cross-validation have in common: patients who train the head of one fold and are tested in another.

Let k(i, j) be the change in the contribution of patient i, when tested, if patient j is added to the training set. A
pair of patients acts twice on a cross-validated metric, as (i tested, j trained) and as (j tested, i trained), and the
two effects are correlated: for a linear head both are proportional to the inner product of the two embeddings. The
variance by influences counts each direction by itself. With w(i, j) the share of the folds testing i that train on j,
it therefore misses

    sum over i, j of w(i, j) w(j, i) k(i, j) k(j, i).

Without any signal this is as much as all the rest, and an interval without it covers 83 % instead of 95 %. Where a
patient is tested in several folds, whose training sets differ, k(i, j) can be estimated: its regression on whether j
was trained on is noisy for a pair, but the sum over all pairs is not.
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
_LEAST_FACTOR = 1.5


def normal_scores(scores: FloatArray) -> FloatArray:
    """(n, S) scores of one fold to normal quantiles of their ranks, column by column; ties share the middle rank.

    Heads of different folds differ in scale and offset, and only the order within a fold matters.
    """
    ranks: FloatArray = ndtri((stats.rankdata(scores, axis=0) - 0.5) / len(scores))
    return ranks


def largest_inflation(division: Division) -> float:
    """Upper bound of `inflation` by the splits alone: as if each pair of units had equal effects on one another.

    0 for a single split, where no patient is both trained on and tested.
    """
    both = total = 0.0
    shares = division.shares_trained()
    for start in range(0, len(shares), _BLOCK):
        rows = shares[start : start + _BLOCK]
        both += float((rows * shares[:, start : start + _BLOCK].T).sum())
        total += float((rows**2).sum())
    return both / total if total else 0.0


def inflation(contributions: FloatArray, division: Division) -> float:
    """Missing share of the variance by influences, estimated from units that are tested in several folds.

    Args:
        contributions: (J, U) contribution of each unit to the metric of each fold, in any unit of measure; 0 where it
            is not tested.
        division: What the splits train on and test.

    Returns:
        0 to 1: the variance is (1 + this) times what influences give. NaN where no unit is tested with different
        training sets: see `largest_inflation`.
    """
    tested = division.tested.astype(np.float64)
    counts = np.maximum(tested.sum(axis=0), 1)
    mean = contributions.sum(axis=0) / counts
    deviations = (contributions - mean) * tested
    shares = division.shares_trained()
    covariances = deviations.T @ division.trained / counts[:, None]
    product = weight = spread = 0.0
    for start in range(0, len(shares), _BLOCK):
        rows = slice(start, start + _BLOCK)
        product += float((covariances[rows] * covariances[:, rows].T).sum())
        weight += float((shares[rows] * shares[:, rows].T).sum())
        variances, reverse = shares[rows] * (1 - shares[rows]), shares[:, rows] * (1 - shares[:, rows])
        spread += float((variances * reverse.T).sum())
    total = float((mean**2).sum())
    if spread < 1e-9 or total <= 0:
        return float("nan")
    return float(np.clip(product / spread * weight / total, 0, 1))


def fold_variance_factor(division: Division) -> float:
    """Factor c in var(mean over folds) = c / K * var(folds of one repeat), with K folds per repeat.

    For K = 5 with a validation fold it is 2.0 for one repeat and 1.55 for five; Nadeau and Bengio's 1 + K * n_test /
    n_train is 2.67 and 1.87. Never below 1.5: few sites in a fold make the metric itself vary more than its folds show.
    """
    shares = division.shares_trained()
    first = division.repeats == division.repeats[0]
    one = replace(
        division, trained=division.trained[first], tested=division.tested[first], repeats=division.repeats[first]
    )
    narrowing = float((shares**2).sum() / shares.sum()) if shares.any() else 1.0
    between = largest_inflation(one) / max(division.folds - 1, 1)
    return max(narrowing * (1 + largest_inflation(division)) / (1 - between), _LEAST_FACTOR)
