"""Areas under the ROC curve of simulated cohorts, and what the product's statistics take: influences, contributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.special import ndtri

from slpd_toolkit.mil.statistics.division import Division
from slpd_toolkit.mil.statistics.intervals import Evidence

if TYPE_CHECKING:
    from benchmarks.simulated.cohorts import Layout
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class Areas:
    """Of B cohorts with one layout, J = R x K folds, N patients."""

    values: FloatArray
    """(J, B) area of each fold."""
    influence: FloatArray
    """(J, B, N)"""
    contributions: FloatArray
    """(J, B, N)"""
    unexplained: FloatArray
    """(B,)"""
    linear: bool = True
    """Whether the head is linear."""

    def __sub__(self, other: Areas) -> Areas:
        """Compare two models: the difference of all but the unexplained variance, of which the larger counts."""
        return Areas(
            self.values - other.values,
            self.influence - other.influence,
            self.contributions - other.contributions,
            np.maximum(self.unexplained, other.unexplained),
            self.linear and other.linear,
        )

    def evidence(self, cohort: int, layout: Layout) -> Evidence:
        """One cohort; influences and contributions are summed over the patients of a site."""
        return Evidence(
            self.values[:, cohort],
            _by_unit(self.influence[:, cohort], layout),
            _by_unit(self.contributions[:, cohort], layout),
            float(self.unexplained[cohort]),
            self.linear,
        )


def division_of(layout: Layout) -> Division:
    """The splits of a layout as the product sees them."""
    units, by_site = layout.units, layout.by_site
    folds = [(repeat, fold) for repeat in range(len(layout.fold_of)) for fold in range(layout.folds)]
    trained, tested = np.zeros((2, len(folds), units.max() + 1), dtype=np.bool_)
    for number, (repeat, fold) in enumerate(folds):
        train, _, test = layout.parts(repeat, fold)
        trained[number, units[train]] = True
        tested[number, units[test]] = True
    strata = np.full(units.max() + 1, "") if by_site else layout.labels.astype(np.str_)
    return Division(units, strata, trained, tested, np.array([repeat for repeat, _ in folds]), by_site)


def areas(scores: FloatArray, layout: Layout) -> Areas:
    """Judge the out-of-fold scores (R, B, N) of B cohorts; the same as the product's for one cohort."""
    cohorts, patients = scores.shape[1:]
    count = len(layout.fold_of) * layout.folds
    values, influence, ranks = np.zeros((count, cohorts)), *np.zeros((2, count, cohorts, patients))
    inside = np.zeros((count, patients), dtype=np.bool_)
    for number in range(count):
        repeat, fold = divmod(number, layout.folds)
        _, _, test = layout.parts(repeat, fold)
        up, down = test[layout.labels[test] == 1], test[layout.labels[test] == 0]
        wins = compare_pairs(scores[repeat], up, down)
        values[number] = wins.mean(axis=(1, 2))
        influence[number][:, up] = (wins.mean(axis=2) - values[number][:, None]) / len(up)
        influence[number][:, down] = (wins.mean(axis=1) - values[number][:, None]) / len(down)
        ranks[number][:, test] = ndtri((stats.rankdata(scores[repeat][:, test], axis=1) - 0.5) / len(test))
        inside[number, test] = True
    positive = layout.labels == 1
    contrast = np.where(positive, 1 / positive.sum(), -1 / (~positive).sum())
    unexplained = 1 - _squared_correlation(ranks, inside, contrast)
    centred = ranks.copy()
    for members in (positive, ~positive):
        chosen = inside & members
        means = ranks.transpose(1, 0, 2)[:, chosen].mean(axis=1)
        centred -= means[None, :, None] * chosen[:, None, :]
    return Areas(values, influence, centred * contrast, unexplained)


def compare_pairs(scores: FloatArray, up: FloatArray, down: FloatArray) -> FloatArray:
    """(B, m, n) 1 where a positive's score is above a negative's, 0.5 where they are equal."""
    high, low = scores[:, up, None], scores[:, None, down]
    wins: FloatArray = (high > low) + (high == low) / 2
    return wins


def _squared_correlation(ranks: FloatArray, inside: BoolArray, contrast: FloatArray) -> FloatArray:
    weights = inside * contrast
    products = np.einsum("jbn,jn->b", ranks, weights)
    norms = np.einsum("jbn,jbn->b", ranks, ranks) * (weights**2).sum()
    squared: FloatArray = np.divide(products**2, norms, out=np.zeros(len(products)), where=norms > 0)
    return squared


def _by_unit(values: FloatArray, layout: Layout) -> FloatArray:
    if not layout.by_site:
        return values
    sums = np.zeros((len(values), layout.units.max() + 1))
    np.add.at(sums.T, layout.units, values.T)
    return sums
