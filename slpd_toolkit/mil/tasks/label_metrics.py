"""Metrics of several binary labels per slide, for many weightings of the cases at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.tasks.several_labels import UNKNOWN
from slpd_toolkit.mil.tasks.weighted_metrics import binary_auc, weighted_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray

CUT = 0.5


def auc_name(label: str) -> str:
    """Return the name of the metric of one label."""
    return f"auc {label}"


def weighted_metrics(
    names: Sequence[str], targets: IntArray, probabilities: FloatArray, weights: FloatArray
) -> dict[str, FloatArray]:
    """Compute the metrics of L labels for R weightings.

    Args:
        names: (L,) names of the labels.
        targets: (N, L) 1, 0 or `UNKNOWN`.
        probabilities: (N, L).
        weights: (R, N), 0 or more.

    Returns:
        (R,) each: `auc` and `balanced_accuracy` (at 0.5), means over labels, and the AUC of each label. NaN if one of
        its values has no cases.
    """
    areas, recalls = [], []
    for label in range(len(names)):
        positive, scores = targets[:, label] == 1, probabilities[:, label]
        counted = weights * (targets[:, label] != UNKNOWN)
        areas.append(binary_auc(positive, scores, counted))
        found = weighted_share(scores >= CUT, counted * positive)
        left = weighted_share(scores < CUT, counted * ~positive)
        recalls.append((found + left) / 2)
    return {
        "auc": np.mean(areas, axis=0),
        "balanced_accuracy": np.mean(recalls, axis=0),
        **{auc_name(name): area for name, area in zip(names, areas, strict=True)},
    }
