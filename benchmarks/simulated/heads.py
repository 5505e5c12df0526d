"""K-NN and the logistic probe of `slpd mil-eval`, fitted on many cohorts at once.

Both choose their setting on the validation fold by the class-balanced cross entropy, as the product does; the
grids are shortened (three numbers of neighbours, three penalties) because the statistics are the subject here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray

NEIGHBOURS = (5, 10, 20)
INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1)
_NEWTON_STEPS = 4


def fit(
    head: str, features: FloatArray, labels: IntArray, train: IntArray, val: IntArray, test: IntArray
) -> FloatArray:
    """Fit one head on the same split of B cohorts that share their labels.

    Args:
        head: `knn` or `probe`.
        features: (B, N, D).
        labels: (N,) 0 or 1.
        train: Rows to learn from.
        val: Rows that choose the setting.
        test: Rows to predict.

    Returns:
        (B, n) logits of the test rows.
    """
    mean = features[:, train].mean(axis=1, keepdims=True)
    scaled = (features - mean) / features[:, train].std(axis=1, keepdims=True)
    candidates = _neighbours(scaled, labels, train) if head == "knn" else _logistic(scaled, labels, train)
    return _best(candidates, labels, train, val, test)


def _best(candidates: list[FloatArray], labels: IntArray, train: IntArray, val: IntArray, test: IntArray) -> FloatArray:
    share = labels[train].mean()
    weights = np.where(labels[val] == 1, 0.5 / share, 0.5 / (1 - share))
    signs = np.where(labels[val] == 1, 1, -1)
    losses = [(np.logaddexp(0, -signs * logits[:, val]) * weights).mean(axis=1) for logits in candidates]
    chosen = np.argmin(np.stack(losses), axis=0)
    stacked = np.stack(candidates)[chosen, np.arange(len(chosen))]
    best: FloatArray = stacked[:, test]
    return best


def _neighbours(features: FloatArray, labels: IntArray, train: IntArray) -> list[FloatArray]:
    known = features[:, train]
    squares = (features**2).sum(axis=2)
    distances = squares[:, :, None] + squares[:, None, train] - 2 * features @ known.transpose(0, 2, 1)
    nearest = np.argpartition(distances, NEIGHBOURS, axis=2)[:, :, : NEIGHBOURS[-1]]
    order = np.argsort(np.take_along_axis(distances, nearest, axis=2), axis=2)
    nearest = np.take_along_axis(nearest, order, axis=2)
    positive = labels[train] == 1
    weight = np.where(positive, 0.5 / positive.mean(), 0.5 / (1 - positive.mean()))
    ups, downs = np.where(positive, weight, 0)[nearest], np.where(positive, 0, weight)[nearest]
    found = []
    for count in NEIGHBOURS:
        up = (ups[:, :, :count].sum(axis=2) + 0.5) / (count + 1)
        down = (downs[:, :, :count].sum(axis=2) + 0.5) / (count + 1)
        found.append(np.round(np.log(up) - np.log(down), 9))  # equal shares are ties
    return found


def _logistic(features: FloatArray, labels: IntArray, train: IntArray) -> list[FloatArray]:
    known = np.concatenate([features[:, train], np.ones((len(features), len(train), 1))], axis=2)
    positive = labels[train] == 1
    weight = np.where(positive, 0.5 / positive.mean(), 0.5 / (1 - positive.mean()))
    width = features.shape[2]
    coefficients = np.zeros((len(features), width + 1))
    found = []
    for inverse in INVERSE_PENALTIES:
        penalty = np.append(np.full(width, 1 / inverse), 1e-6)
        for _ in range(_NEWTON_STEPS):
            chance = expit(np.einsum("bnd,bd->bn", known, coefficients))
            gradient = np.einsum("bnd,bn->bd", known, weight * (chance - positive)) + penalty * coefficients
            curvature = known.transpose(0, 2, 1) @ (known * (weight * chance * (1 - chance))[:, :, None])
            curvature[:, np.arange(width + 1), np.arange(width + 1)] += penalty
            coefficients = coefficients - np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        found.append(np.einsum("bnd,bd->bn", features, coefficients[:, :-1]) + coefficients[:, -1:])
    return found
