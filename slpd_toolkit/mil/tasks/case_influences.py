"""Influences of cases on metrics of classes: exact derivatives of `weighted_metrics` at weights of 1, in O(N log N).

NaN where the metric is undefined. Tests compare them with derivatives of the weighted metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.derivatives import of_mean, of_pairs, of_share
from slpd_toolkit.mil.tasks.label_metrics import CUT, auc_name
from slpd_toolkit.mil.tasks.metrics import predicted_classes
from slpd_toolkit.mil.tasks.several_labels import UNKNOWN
from slpd_toolkit.mil.tasks.weighted_metrics import confidence_gaps, costs_of_classes, half_squared_errors
from slpd_toolkit.mil.tasks.weighted_ranks import weight_below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray

_ROUNDING = 1e-9


def classification(targets: IntArray, probabilities: FloatArray, *, ordinal: bool = False) -> dict[str, FloatArray]:
    """Compute the influences on `weighted_metrics.classification`.

    Args:
        targets: (N,) class indices.
        probabilities: (N, C).
        ordinal: Classes are ordered.

    Returns:
        (N,) for each metric.
    """
    predicted, classes = predicted_classes(probabilities, ordinal=ordinal), probabilities.shape[1]
    hits, cases = targets == predicted, np.bincount(targets, minlength=classes)
    recall = np.bincount(targets[hits], minlength=classes) / np.maximum(cases, 1)
    influences = {
        "auc": np.mean([binary_auc(targets == index, scores) for index, scores in enumerate(probabilities.T)], axis=0),
        "balanced_accuracy": (hits - recall[targets]) / cases[targets] / (cases > 0).sum(),
        "accuracy": of_mean(hits.astype(np.float64)),
        "f1": macro_f1(targets, predicted, classes),
        "kappa": kappa(targets, predicted, classes),
    }
    if ordinal:
        influences["quadratic_kappa"] = kappa(targets, predicted, classes, quadratic=True)
    return influences


def binary_auc(positive: BoolArray, scores: FloatArray, counted: BoolArray | None = None) -> FloatArray:
    """Compute the influences on `weighted_metrics.binary_auc`, (N,): DeLong's components; see `paired_tests`.

    Args:
        positive: (N,)
        scores: (N,)
        counted: (N,) cases that count; None for all.
    """
    every = np.ones(len(scores), dtype=np.bool_) if counted is None else counted
    high, low = (positive & every).astype(np.float64), (~positive & every).astype(np.float64)
    lower = weight_below(scores, low[None])[0]
    higher = high.sum() - weight_below(scores, high[None])[0]
    return of_pairs(high * lower + low * higher, high * low.sum() + low * high.sum())


def macro_f1(targets: IntArray, predicted: IntArray, classes: int) -> FloatArray:
    """Compute the influences on `weighted_metrics.macro_f1`, (N,): on the F1 of the true and of the predicted class."""
    hits = targets == predicted
    named = np.bincount(targets, minlength=classes) + np.bincount(predicted, minlength=classes)
    f1 = 2 * np.bincount(targets[hits], minlength=classes) / np.maximum(named, 1)
    of_class, of_predicted = ((hits - f1[each]) / named[each] for each in (targets, predicted))
    influences: FloatArray = (of_class + of_predicted) / (named > 0).sum()
    return influences


def kappa(targets: IntArray, predicted: IntArray, classes: int, *, quadratic: bool = False) -> FloatArray:
    """Compute the influences on `weighted_metrics.kappa`, (N,)."""
    costs = costs_of_classes(classes, quadratic=quadratic)
    total = len(targets)
    of_target = costs @ np.bincount(predicted, minlength=classes)
    of_predicted = np.bincount(targets, minlength=classes) @ costs
    # The chance disagreement is a product of two sums over cases, divided by the sum of weights.
    chance = of_target[targets].sum() / total
    of_chance = (of_target[targets] + of_predicted[predicted] - chance) / total
    observed = costs[targets, predicted]
    if not chance > 0:
        return np.full(total, np.nan)
    influences: FloatArray = -(observed - observed.sum() / chance * of_chance) / chance
    return influences


def labels(names: Sequence[str], targets: IntArray, probabilities: FloatArray) -> dict[str, FloatArray]:
    """Compute the influences on `label_metrics.weighted_metrics`.

    Args:
        names: (L,) names of the labels.
        targets: (N, L) 1, 0 or `UNKNOWN`.
        probabilities: (N, L).

    Returns:
        (N,) for each metric.
    """
    areas, recalls = [], []
    for label in range(len(names)):
        positive, scores, known = targets[:, label] == 1, probabilities[:, label], targets[:, label] != UNKNOWN
        areas.append(binary_auc(positive, scores, known))
        found, left = of_share(scores >= CUT, known & positive), of_share(scores < CUT, known & ~positive)
        recalls.append((found + left) / 2)
    return {
        "auc": np.mean(areas, axis=0),
        "balanced_accuracy": np.mean(recalls, axis=0),
        **{auc_name(name): area for name, area in zip(names, areas, strict=True)},
    }


def brier_score(targets: IntArray, probabilities: FloatArray) -> FloatArray:
    """Compute the influences on `weighted_metrics.brier_score`, (N,)."""
    return of_mean(half_squared_errors(targets, probabilities))


def calibration_error(targets: IntArray, probabilities: FloatArray, *, bins: int = 10) -> FloatArray:
    """Compute the influences on `weighted_metrics.calibration_error`, (N,).

    In a bin whose errors cancel, any weight increases the error of the bin.
    """
    gaps, of_bin = confidence_gaps(targets, probabilities, bins)
    sums = np.bincount(of_bin, gaps, bins)[of_bin]
    moved = np.where(np.abs(sums) <= _ROUNDING, np.abs(gaps), np.sign(sums) * gaps)
    error = np.abs(np.bincount(of_bin, gaps, bins)).sum() / len(gaps)
    influences: FloatArray = (moved - error) / len(gaps)
    return influences
