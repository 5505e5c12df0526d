"""Metrics of predictions, equal to scikit-learn's, with NaN instead of warnings if they are undefined.

Metrics of a confusion matrix are computed here, because scikit-learn takes ten times as long, mostly for checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray


def classification(targets: IntArray, probabilities: FloatArray, *, ordinal: bool = False) -> dict[str, float]:
    """Compute all metrics of a classification.

    Args:
        targets: (N,) class indices.
        probabilities: (N, C), rows sum to 1.
        ordinal: Classes are ordered: predict the median class, and also report the quadratic kappa.

    Returns:
        `auc` (macro one-vs-rest), `balanced_accuracy`, `accuracy`, `f1` (macro), `kappa` (Cohen), and for ordinal
        classes `quadratic_kappa`. NaN where a metric is undefined, such as the AUC if a class has no cases.
    """
    predicted = predicted_classes(probabilities, ordinal=ordinal)
    confusion = confusion_matrix(targets, predicted, probabilities.shape[1])
    cases, named, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diagonal(confusion)
    occurs, counts = cases > 0, cases + named > 0
    values = {
        "auc": auc(targets, probabilities),
        "balanced_accuracy": (hits[occurs] / cases[occurs]).mean(),
        "accuracy": hits.sum() / cases.sum(),
        "f1": (2 * hits[counts] / (cases + named)[counts]).mean(),
        "kappa": kappa(confusion),
    }
    if ordinal:
        values["quadratic_kappa"] = kappa(confusion, quadratic=True)
    return {name: float(value) for name, value in values.items()}


def confusion_matrix(targets: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Count the cases of each target (row) and prediction (column), (C, C)."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def define_metrics(classes: int, predicted: str) -> dict[str, str]:
    """Define the metrics of a classification, for the report.

    Args:
        classes: Number of classes.
        predicted: Which class counts as the predicted one.
    """
    which = "of two classes" if classes == 2 else "each class against the rest, mean over classes"
    return {
        "AUC": f"Area under the ROC curve; {which}. Guessing gives 0.5.",
        "Balanced accuracy, accuracy, F1, Cohen's kappa": f"At the {predicted}. Balanced accuracy is the mean recall "
        "of the classes; F1 is the mean of their F1 scores; kappa is agreement beyond chance.",
    }


def auc(targets: IntArray, probabilities: FloatArray) -> float:
    """Compute the one-vs-rest area under the ROC curve, averaged over classes; for two classes both areas are equal.

    NaN if a class has no cases.
    """
    is_class = np.eye(probabilities.shape[1], dtype=np.bool_)[targets]
    if not is_class.any(axis=0).all():
        return float("nan")
    return float(roc_auc_score(is_class, probabilities, average="macro"))


def kappa(confusion: IntArray, *, quadratic: bool = False) -> float:
    """Compute Cohen's kappa of a confusion matrix (C, C), or the kappa weighted by the squared distance of classes.

    1 - disagreement / chance disagreement (Cohen 1960; weighted: Cohen 1968). NaN if only one class occurs.
    """
    cases, named = confusion.sum(axis=1), confusion.sum(axis=0)
    if np.count_nonzero(cases + named) < 2:
        return float("nan")
    index = np.arange(len(confusion))
    distance = index[:, None] - index
    costs = distance**2 if quadratic else distance != 0
    chance = np.outer(named, cases) / confusion.sum()
    return float(1 - (costs * confusion).sum() / (costs * chance).sum())


def predicted_classes(probabilities: FloatArray, *, ordinal: bool = False) -> IntArray:
    """Return the most probable class, or for ordered classes the median of the distribution: (N, C) -> (N,)."""
    if ordinal:
        return np.asarray((np.cumsum(probabilities, axis=1) < 0.5).sum(axis=1), dtype=np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Data of a calibration plot: predicted and observed frequency of the non-empty bins."""

    predicted: FloatArray
    """(B,) mean predicted probability of each bin."""
    observed: FloatArray
    """(B,) fraction of positive cases in each bin."""
    counts: IntArray
    """(B,) number of cases in each bin."""


def reliability(positive: BoolArray, probabilities: FloatArray, *, bins: int = 10) -> Reliability:
    """Compute a reliability curve over bins of equal width.

    Args:
        positive: (N,) whether each case is positive; for several classes, whether the predicted class is correct.
        probabilities: (N,) predicted probability of being positive; for several classes, that of the predicted class.
        bins: Number of bins.
    """
    observed, predicted = calibration_curve(positive, probabilities, pos_label=True, n_bins=bins)
    bin_of_case = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities)
    counts = np.bincount(bin_of_case, minlength=bins)
    return Reliability(predicted, observed, counts[counts > 0])


def expected_calibration_error(targets: IntArray, probabilities: FloatArray, *, bins: int = 10) -> float:
    """Compute the expected calibration error of the most probable class (Guo et al., ICML 2017).

    Args:
        targets: (N,) class indices.
        probabilities: (N, C).
        bins: Number of bins of equal width.
    """
    curve = reliability(targets == probabilities.argmax(axis=1), probabilities.max(axis=1), bins=bins)
    return float(np.average(np.abs(curve.observed - curve.predicted), weights=curve.counts))
