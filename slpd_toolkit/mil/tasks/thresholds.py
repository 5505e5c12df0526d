"""Thresholds of a score, chosen on cases that are neither trained on nor tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import BoolArray, FloatArray


def choose_threshold(positive: BoolArray, scores: FloatArray, sensitivity: float | None = None) -> float:
    """Return the threshold of a sensitivity if one is given, else that of Youden's index."""
    return (
        youden_threshold(positive, scores)
        if sensitivity is None
        else sensitivity_threshold(positive, scores, sensitivity)
    )


def youden_threshold(positive: BoolArray, scores: FloatArray) -> float:
    """Return the threshold of the largest sensitivity + specificity - 1 (Youden, Cancer 1950;3:32).

    A score of at least the threshold counts as positive. The threshold is halfway between two neighboring scores; of
    equally good ones, the one closest to 0.5 is chosen. 0.5 if a class is missing.
    """
    if not positive.any() or positive.all():
        return 0.5
    values = np.unique(scores)
    cuts = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    missed, specificity = (
        np.searchsorted(np.sort(scores[each]), cuts, side="left") / each.sum() for each in (positive, ~positive)
    )
    gain = 1 - missed + specificity
    best = cuts[gain >= gain.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def sensitivity_threshold(positive: BoolArray, scores: FloatArray, sensitivity: float) -> float:
    """Return the highest threshold at which at least a given share of the positive cases is found.

    A score of at least the threshold counts as positive. The threshold is halfway between a score and the next lower
    one, so that a case on either side is not decided by rounding; the lowest score itself if there is none lower. 0.5
    without positive cases.

    Args:
        positive: (N,) which cases are positive.
        scores: (N,) higher means more likely positive.
        sensitivity: Wanted share, above 0, up to 1.
    """
    if not positive.any():
        return 0.5
    ordered = np.sort(scores[positive])[::-1]
    needed = int(np.ceil(sensitivity * len(ordered) - 1e-9))
    cut = ordered[max(needed, 1) - 1]
    lower = scores[scores < cut]
    return float((cut + lower.max()) / 2) if len(lower) else float(cut)
