"""Other methods for the same question, as candidates and for comparison; vectorised over cohorts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from benchmarks.simulated.evidence import compare_pairs

if TYPE_CHECKING:
    from benchmarks.simulated.cohorts import Layout
    from benchmarks.simulated.evidence import Areas
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.division import Division

_SAMPLES, _SWAPS = 200, 199


def bootstrap(scores: FloatArray, layout: Layout, rng: np.random.Generator) -> FloatArray:
    """Percentiles of the mean over folds, patients drawn within classes (the method of version 0.1)."""
    weights = np.zeros((_SAMPLES, len(layout.labels)))
    for label in (0, 1):
        members = np.flatnonzero(layout.labels == label)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=_SAMPLES)
    total, count = np.zeros((scores.shape[1], _SAMPLES)), np.zeros(_SAMPLES)
    for repeat, fold in _folds(layout):
        up, down = _classes(layout, repeat, fold)
        wins = compare_pairs(scores[repeat], up, down)
        found = ((weights[:, up] @ wins) * weights[:, down]).sum(axis=2)
        pairs = weights[:, up].sum(axis=1) * weights[:, down].sum(axis=1)
        total += np.divide(found, pairs, out=np.zeros_like(found), where=pairs > 0)
        count += pairs > 0
    return np.quantile(total / count, [0.025, 0.975], axis=1)


def influence_curve(area: Areas, layout: Layout) -> FloatArray:
    """Normal interval with the influence-curve variance (LeDell et al. 2015; DeLong's for one repeat)."""
    mean = area.values.mean(axis=0)
    summed = area.influence.mean(axis=0)
    if layout.by_site:
        summed = np.stack([summed[:, layout.units == unit].sum(axis=1) for unit in np.unique(layout.units)], axis=1)
    half = stats.norm.ppf(0.975) * np.sqrt((summed**2).sum(axis=1))
    return np.stack([mean - half, mean + half])


def corrected_variance(area: Areas, division: Division) -> FloatArray:
    """t interval with the corrected variance of folds (Nadeau & Bengio 2003)."""
    count = len(area.values)
    variance = (1 / count + division.test_train_ratio) * area.values.var(axis=0, ddof=1)
    half = stats.t.ppf(0.975, count - 1) * np.sqrt(variance)
    mean = area.values.mean(axis=0)
    return np.stack([mean - half, mean + half])


def delong(difference: Areas) -> FloatArray:
    """p-values of the summed difference with the folds' variances added up (the method of version 0.1)."""
    variance = (difference.influence.sum(axis=0) ** 2).sum(axis=1)
    z = np.divide(difference.values.sum(axis=0), np.sqrt(variance), out=np.zeros(len(variance)), where=variance > 0)
    p_values: FloatArray = 2 * stats.norm.sf(np.abs(z))
    return p_values


def permuted_differences(first: FloatArray, second: FloatArray, layout: Layout, rng: np.random.Generator) -> FloatArray:
    """(S, B) differences after the models traded the within-fold ranks of random patients, or of whole sites."""
    swaps = (rng.random((_SWAPS, layout.units.max() + 1)) < 0.5)[:, layout.units]
    found = np.zeros((_SWAPS, first.shape[1]))
    for repeat, fold in _folds(layout):
        test = np.flatnonzero(layout.fold_of[repeat] == fold)
        labels = layout.labels[test]
        one, other = (stats.rankdata(each[repeat][:, test], axis=1) for each in (first, second))
        up, down = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        # Four tables of wins, by which model's rank either side has; a swap picks one for each pair.
        wins = {
            (a, b): ((x[:, up, None] > y[:, None, down]) + (x[:, up, None] == y[:, None, down]) / 2)
            for a, x in enumerate((one, other))
            for b, y in enumerate((one, other))
        }
        swap_up, swap_down = swaps[:, test][:, up].astype(float), swaps[:, test][:, down].astype(float)
        for a in (0, 1):
            for b in (0, 1):
                table = wins[a, b] - wins[1 - a, 1 - b]
                left = swap_up if a else 1 - swap_up
                right = swap_down if b else 1 - swap_down
                found += np.einsum("sbn,sn->sb", np.tensordot(left, table, axes=(1, 1)), right) / (len(up) * len(down))
    return found / (len(layout.fold_of) * layout.folds)


def _folds(layout: Layout) -> list[tuple[int, int]]:
    return [(repeat, fold) for repeat in range(len(layout.fold_of)) for fold in range(layout.folds)]


def _classes(layout: Layout, repeat: int, fold: int) -> tuple[FloatArray, FloatArray]:
    test = np.flatnonzero(layout.fold_of[repeat] == fold)
    return test[layout.labels[test] == 1], test[layout.labels[test] == 0]
