"""Weighted versions of `metrics` for many weightings of the cases at once: the inner loop of bootstrap and permutation.

A bootstrap replicate is a weighting (how often each case was drawn), and so is a permutation (whose prediction replaces
that of a case). Thousands of scikit-learn calls take minutes, these functions a second; tests compare the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.metrics import predicted_classes

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray


def classification(
    targets: IntArray, probabilities: FloatArray, weights: FloatArray, *, ordinal: bool = False
) -> dict[str, FloatArray]:
    """Compute `metrics.classification` for R weightings.

    Args:
        targets: (N,) class indices.
        probabilities: (N, C).
        weights: (R, N), 0 or more.
        ordinal: Classes are ordered.

    Returns:
        (R,) for each metric, NaN where it is undefined.
    """
    predicted = predicted_classes(probabilities, ordinal=ordinal)
    confusions = confusion_matrices(targets, predicted, probabilities.shape[1], weights)
    values = {
        "auc": auc(targets, probabilities, weights),
        "balanced_accuracy": balanced_accuracy(confusions),
        "accuracy": _ratio(np.trace(confusions, axis1=1, axis2=2), confusions.sum(axis=(1, 2))),
        "f1": macro_f1(confusions),
        "kappa": kappa(confusions),
    }
    if ordinal:
        values["quadratic_kappa"] = kappa(confusions, quadratic=True)
    return values


def auc(targets: IntArray, probabilities: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute the one-vs-rest area under the ROC curve, averaged over classes, (R,)."""
    areas = [_binary_auc(targets == index, scores, weights) for index, scores in enumerate(probabilities.T)]
    return np.asarray(np.stack(areas).mean(axis=0))


def _binary_auc(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute the AUC as a Mann-Whitney statistic: weight of negatives below each positive, plus half of the ties."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    ties = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    positives = np.add.reduceat(weights[:, order] * positive[order], ties, axis=1)
    negatives = np.add.reduceat(weights[:, order] * ~positive[order], ties, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return _ratio((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))


def confusion_matrices(targets: IntArray, predicted: IntArray, classes: int, weights: FloatArray) -> FloatArray:
    """Return the total weight of each pair of target (row) and prediction (column), (R, C, C)."""
    cells = np.eye(classes * classes)[targets * classes + predicted]
    sums: FloatArray = weights @ cells
    return sums.reshape(-1, classes, classes)


def balanced_accuracy(confusions: FloatArray) -> FloatArray:
    """Compute the mean recall of the classes that occur: (R, C, C) -> (R,)."""
    cases = confusions.sum(axis=2)
    recall = np.divide(np.diagonal(confusions, axis1=1, axis2=2), cases, out=np.zeros_like(cases), where=cases > 0)
    return _ratio(recall.sum(axis=1), (cases > 0).sum(axis=1))


def macro_f1(confusions: FloatArray) -> FloatArray:
    """Compute the mean F1 of the classes that occur or are predicted: (R, C, C) -> (R,)."""
    named = confusions.sum(axis=2) + confusions.sum(axis=1)
    hits = 2 * np.diagonal(confusions, axis1=1, axis2=2)
    f1 = np.divide(hits, named, out=np.zeros_like(named), where=named > 0)
    return _ratio(f1.sum(axis=1), (named > 0).sum(axis=1))


def kappa(confusions: FloatArray, *, quadratic: bool = False) -> FloatArray:
    """Compute 1 - disagreement / chance disagreement (Cohen 1960; weighted: Cohen 1968): (R, C, C) -> (R,)."""
    index = np.arange(confusions.shape[1])
    distance = index[:, None] - index[None, :]
    costs = distance.astype(np.float64) ** 2 if quadratic else (distance != 0).astype(np.float64)
    chance = _ratio(
        np.einsum("rt,tp,rp->r", confusions.sum(axis=2), costs, confusions.sum(axis=1)), confusions.sum(axis=(1, 2))
    )
    return 1 - _ratio(np.einsum("rtp,tp->r", confusions, costs), chance)


def brier_score(targets: IntArray, probabilities: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute half the squared distance between probabilities and the true class, (R,): 0 to 1, lower is better.

    For two classes it is the mean of (p - y)^2. (Brier, Mon Weather Rev 1950;78:1.)

    Args:
        targets: (N,) class indices.
        probabilities: (N, C).
        weights: (R, N).
    """
    errors = ((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(axis=1) / 2
    return _ratio(weights @ errors, weights.sum(axis=1))


def calibration_error(
    targets: IntArray, probabilities: FloatArray, weights: FloatArray, *, bins: int = 10
) -> FloatArray:
    """Compute `metrics.expected_calibration_error` for R weightings, (R,).

    Args:
        targets: (N,) class indices.
        probabilities: (N, C).
        weights: (R, N).
        bins: Number of bins of equal width.
    """
    confidence = probabilities.max(axis=1)
    gaps = (targets == probabilities.argmax(axis=1)) - confidence
    of_bin = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    sums = (weights * gaps) @ np.eye(bins)[of_bin]
    return _ratio(np.abs(sums).sum(axis=1), weights.sum(axis=1))


def weighted_share(chosen: BoolArray, weights: FloatArray) -> FloatArray:
    """Compute the share of the weights (R, N) that the chosen cases (N,) have, (R,)."""
    return _ratio(weights @ chosen.astype(np.float64), weights.sum(axis=1))


def _ratio(numerator: FloatArray, denominator: FloatArray | IntArray) -> FloatArray:
    ratio: FloatArray = np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
    return ratio
