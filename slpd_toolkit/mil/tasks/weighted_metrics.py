"""Weighted versions of `metrics` for many weightings of the cases at once, for influences and permutations.

An influence is the derivative with respect to the weight of a case, and a permutation is a weighting of the predictions
of two models. Thousands of scikit-learn calls take minutes, these functions a second; tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
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
        (R,) for each metric; NaN if it is undefined.
    """
    predicted = predicted_classes(probabilities, ordinal=ordinal)
    counts = count_classes(targets, predicted, probabilities.shape[1], weights)
    values = {
        "auc": auc(targets, probabilities, weights),
        "balanced_accuracy": balanced_accuracy(counts),
        "accuracy": _ratio(counts.hits.sum(axis=1), weights.sum(axis=1)),
        "f1": macro_f1(counts),
        "kappa": kappa(targets, predicted, counts, weights),
    }
    if ordinal:
        values["quadratic_kappa"] = kappa(targets, predicted, counts, weights, quadratic=True)
    return values


def auc(targets: IntArray, probabilities: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute the one-vs-rest area under the ROC curve, averaged over classes, (R,)."""
    areas = [binary_auc(targets == index, scores, weights) for index, scores in enumerate(probabilities.T)]
    return np.asarray(np.stack(areas).mean(axis=0))


def binary_auc(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute the AUC as a Mann-Whitney statistic: weight of negatives below each positive, plus half of the ties."""
    right, known = pairs_won(positive, scores, weights)
    return _ratio(right, known)


def pairs_won(
    positive: BoolArray, scores: FloatArray, weights: FloatArray, within: IntArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the weight of the pairs of a positive and a lower negative, plus half of the ties, and of all pairs, (R,).

    Args:
        positive: (N,)
        scores: (N,)
        weights: (R, N)
        within: (N,) group of each case; only pairs of the same group count. None for all pairs.
    """
    order = np.argsort(scores, kind="stable") if within is None else np.lexsort((scores, within))
    ranked, group = scores[order], np.zeros(len(order)) if within is None else within[order]
    opens = np.append(True, group[1:] != group[:-1])
    ties = np.flatnonzero(opens | np.append(True, ranked[1:] != ranked[:-1]))
    positives = np.add.reduceat(weights[:, order] * positive[order], ties, axis=1)
    negatives = np.add.reduceat(weights[:, order] * ~positive[order], ties, axis=1)
    groups = np.searchsorted(ties, np.flatnonzero(opens))
    of_group = [np.add.reduceat(each, groups, axis=1) for each in (positives, negatives)]
    below = np.cumsum(negatives, axis=1) - negatives / 2
    right = (positives * below).sum(axis=1)
    earlier = np.cumsum(of_group[1], axis=1) - of_group[1]  # negatives of other groups, which do not count
    return right - (of_group[0] * earlier).sum(axis=1), (of_group[0] * of_group[1]).sum(axis=1)


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Total weights per class: what metrics need of R confusion matrices, without their C x C cells."""

    cases: FloatArray
    """(R, C) weight of the cases of each class."""
    predicted: FloatArray
    """(R, C) weight of the cases predicted as each class."""
    hits: FloatArray
    """(R, C) weight of the cases of each class that are predicted correctly."""


def count_classes(targets: IntArray, predicted: IntArray, classes: int, weights: FloatArray) -> ClassCounts:
    """Sum the weights of true, predicted and correct cases of each class."""
    of_class = np.eye(classes)[targets]
    return ClassCounts(
        weights @ of_class, weights @ np.eye(classes)[predicted], weights @ (of_class * (targets == predicted)[:, None])
    )


def balanced_accuracy(counts: ClassCounts) -> FloatArray:
    """Compute the mean recall of the classes that occur, (R,)."""
    cases = counts.cases
    recall = np.divide(counts.hits, cases, out=np.zeros_like(cases), where=cases > 0)
    return _ratio(recall.sum(axis=1), (cases > 0).sum(axis=1))


def macro_f1(counts: ClassCounts) -> FloatArray:
    """Compute the mean F1 of the classes that occur or are predicted, (R,)."""
    named = counts.cases + counts.predicted
    f1 = np.divide(2 * counts.hits, named, out=np.zeros_like(named), where=named > 0)
    return _ratio(f1.sum(axis=1), (named > 0).sum(axis=1))


def kappa(
    targets: IntArray, predicted: IntArray, counts: ClassCounts, weights: FloatArray, *, quadratic: bool = False
) -> FloatArray:
    """Compute 1 - disagreement / chance disagreement (Cohen 1960; weighted: Cohen 1968), (R,)."""
    costs = costs_of_classes(counts.cases.shape[1], quadratic=quadratic)
    chance = _ratio((counts.cases @ costs * counts.predicted).sum(axis=1), weights.sum(axis=1))
    return 1 - _ratio(weights @ costs[targets, predicted], chance)


def costs_of_classes(classes: int, *, quadratic: bool = False) -> FloatArray:
    """Return the disagreement of each pair of classes, (C, C): 1 or, for ordered classes, their squared distance."""
    index = np.arange(classes)
    distance = index[:, None] - index[None, :]
    return distance.astype(np.float64) ** 2 if quadratic else (distance != 0).astype(np.float64)


def brier_score(targets: IntArray, probabilities: FloatArray, weights: FloatArray) -> FloatArray:
    """Compute half the squared distance between probabilities and the true class, (R,): 0 to 1, lower is better.

    For two classes it is the mean of (p - y)^2. (Brier, Mon Weather Rev 1950;78:1.)

    Args:
        targets: (N,) class indices.
        probabilities: (N, C).
        weights: (R, N).
    """
    return _ratio(weights @ half_squared_errors(targets, probabilities), weights.sum(axis=1))


def half_squared_errors(targets: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return half the squared distance between the probabilities of each case and its class, (N,)."""
    errors: FloatArray = ((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(axis=1) / 2
    return errors


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
    gaps, of_bin = confidence_gaps(targets, probabilities, bins)
    sums = (weights * gaps) @ np.eye(bins)[of_bin]
    return _ratio(np.abs(sums).sum(axis=1), weights.sum(axis=1))


def confidence_gaps(targets: IntArray, probabilities: FloatArray, bins: int) -> tuple[FloatArray, IntArray]:
    """Return whether each case is predicted correctly minus the confidence, (N,), and the bin of the confidence."""
    confidence = probabilities.max(axis=1)
    gaps: FloatArray = (targets == probabilities.argmax(axis=1)) - confidence
    return gaps, np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence).astype(np.int64)


def weighted_share(chosen: BoolArray, weights: FloatArray) -> FloatArray:
    """Compute the share of the weights (R, N) that the chosen cases (N,) have, (R,)."""
    return _ratio(weights @ chosen.astype(np.float64), weights.sum(axis=1))


def _ratio(numerator: FloatArray, denominator: FloatArray | IntArray) -> FloatArray:
    ratio: FloatArray = np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
    return ratio
