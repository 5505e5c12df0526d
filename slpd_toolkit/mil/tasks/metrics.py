"""Metrics of predictions, from scikit-learn, with NaN instead of warnings where they are undefined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score, roc_auc_score

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
    values = {
        "auc": auc(targets, probabilities),
        # Mean recall over the classes that occur is the balanced accuracy, without its warning for absent classes.
        "balanced_accuracy": recall_score(
            targets, predicted, labels=np.unique(targets), average="macro", zero_division=0.0
        ),
        "accuracy": accuracy_score(targets, predicted),
        "f1": f1_score(targets, predicted, average="macro", zero_division=0.0),
        "kappa": kappa(targets, predicted, probabilities.shape[1]),
    }
    if ordinal:
        values["quadratic_kappa"] = kappa(targets, predicted, probabilities.shape[1], weights="quadratic")
    return {name: float(value) for name, value in values.items()}


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


def kappa(targets: IntArray, predicted: IntArray, classes: int, weights: str | None = None) -> float:
    """Compute Cohen's kappa, or with weights `quadratic` the weighted kappa. NaN if only one class occurs."""
    if len(np.union1d(targets, predicted)) < 2:
        return float("nan")
    return float(cohen_kappa_score(targets, predicted, labels=np.arange(classes), weights=weights))


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
