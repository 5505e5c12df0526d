"""How far is a slide from the training set? Mahalanobis distance of its mean embedding, with a calibrated limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray, IntArray

FALSE_ALARM_RATE = 0.05
"""Share of held-out training slides that the limit is meant to mark."""
_FEWEST_SLIDES = 3
_ARRAYS = ("mean", "scale", "axes", "precisions", "rest", "held_out")


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Mean and covariance of the mean embeddings of a set of slides, D features.

    Features are standardized, and the covariance S of n slides is shrunk towards a multiple of the identity,

        C = (1 - a) S + a m I,   m = trace(S) / D,

    with the weight a of Ledoit & Wolf (J Multivar Anal 2004;88:365). Only the directions in which the slides vary are
    stored; C is a m I in all others.
    """

    mean: FloatArray
    """(D,)"""
    scale: FloatArray
    """(D,) standard deviation of each feature, 1 where it does not vary."""
    axes: NDArray[np.float32]
    """(r, D) orthonormal directions, r at most the number of slides."""
    precisions: FloatArray
    """(r,) inverse variance of C along each."""
    rest: float
    """Inverse variance of C in all other directions."""

    @classmethod
    def of(cls, means: NDArray[np.float32]) -> Self:
        """Estimate from mean embeddings, (n, D)."""
        vectors = means.astype(np.float64)
        count, width = vectors.shape
        mean, sd = vectors.mean(axis=0), vectors.std(axis=0)
        scale = np.where(sd > 1e-12 * np.maximum(np.abs(mean), 1), sd, 1)
        centred = (vectors - mean) / scale
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / count
        level = max(float(variances.sum()) / width, 1e-12)
        total = float((variances**2).sum())
        spread = (total - width * level**2) / width
        noise = (float((np.square(centred).sum(axis=1) ** 2).sum()) / count - total) / (count * width)
        weight = 1.0 if spread <= 0 else float(np.clip(noise / spread, 0, 1))
        weight = max(weight, 1e-3)  # directions that no slide varied in must not count infinitely
        precisions = 1 / ((1 - weight) * variances + weight * level)
        return cls(mean, scale, axes.astype(np.float32), precisions, 1 / (weight * level))

    def distances(self, means: NDArray[np.float32]) -> FloatArray:
        """Return the Mahalanobis distance of each of (n, D) mean embeddings, (n,).

        The distance of a slide does not depend on the others, to the last bit.
        """
        return np.array([self._distance(each) for each in means], dtype=np.float64)

    def _distance(self, mean: NDArray[np.float32]) -> float:
        centred = (mean.astype(np.float64) - self.mean) / self.scale
        along = self.axes.astype(np.float64) @ centred
        outside = max(float(centred @ centred - along @ along), 0.0)
        return float(np.sqrt((along**2 * self.precisions).sum() + outside * self.rest))


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The slides that the heads of a bundle were trained on, and the limit beyond which a slide is marked."""

    neighbourhood: Neighbourhood
    """Of all slides."""
    held_out: FloatArray
    """(h,) rising: distances of slides from the slides of other folds."""
    limit: float
    """Slides beyond this distance are marked: the conformal quantile of `held_out`; infinite with too few slides."""
    false_alarm_rate: float
    """Share of held-out slides that a limit from the other folds marks; NaN where there are no other folds."""

    @classmethod
    def of(cls, means: NDArray[np.float32], test_parts: Sequence[IntArray]) -> Self:
        """Calibrate on held-out slides: each test part against a neighborhood of all other slides.

        Args:
            means: (S, D) mean embeddings of the cohort.
            test_parts: Rows of each test part of one repeat.
        """
        parts = []
        for part in test_parts:
            others = np.setdiff1d(np.arange(len(means)), part)
            if len(part) and len(others) >= _FEWEST_SLIDES:
                parts.append(Neighbourhood.of(means[others]).distances(means[part]))
        pooled = np.sort(np.concatenate(parts)) if parts else np.zeros(0)
        alarms, judged = 0, 0
        for number, distances in enumerate(parts):
            rest = [other for index, other in enumerate(parts) if index != number]
            if rest:
                alarms += int((distances > limit_of(np.concatenate(rest))).sum())
                judged += len(distances)
        rate = alarms / judged if judged else float("nan")
        return cls(Neighbourhood.of(means), pooled, limit_of(pooled), rate)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of a file."""
        near = self.neighbourhood
        return {
            "mean": near.mean,
            "scale": near.scale,
            "axes": near.axes,
            "precisions": near.precisions,
            "rest": np.array(near.rest),
            "held_out": self.held_out,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], false_alarm_rate: float) -> Self:
        """Read arrays back.

        Raises:
            KeyError: One is missing.
            ValueError: Their shapes do not match.
        """
        mean, scale, axes, precisions, rest, held_out = (np.asarray(arrays[name]) for name in _ARRAYS)
        if mean.ndim != 1 or scale.shape != mean.shape or axes.shape != (len(precisions), len(mean)) or rest.ndim:
            raise ValueError("the arrays of the training set do not match")
        near = Neighbourhood(mean, scale, axes, precisions, float(rest))
        return cls(near, held_out, limit_of(held_out), false_alarm_rate)


def limit_of(distances: FloatArray, rate: float = FALSE_ALARM_RATE) -> float:
    """Return the conformal quantile of distances: a further one exceeds it with a probability of at most `rate`.

    It is the k-th smallest of n, k = ceil((n + 1) (1 - rate)), and infinite if there are too few for that (Vovk et al.,
    Algorithmic Learning in a Random World, 2005).
    """
    place = int(np.ceil((len(distances) + 1) * (1 - rate) - 1e-9))
    return float(np.sort(distances)[place - 1]) if place <= len(distances) else float("inf")
