"""Cohort prototypes: k-means centroids of the training regions, which the fitted descriptors share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from slpd_toolkit.mil.bags import Scaler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags

PROTOTYPES = 16
MOST_REGIONS = 100_000
_RESTARTS = 3


@dataclass(frozen=True, eq=False)
class CohortPrototypes:
    """Centroids of the training regions, in standardized coordinates."""

    scaler: Scaler
    """Mean and standard deviation of the training regions."""
    centroids: NDArray[np.float32]
    """(K, D)"""
    width: float
    """Mean squared distance of a training region to its nearest centroid."""

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, NDArray[Any]]) -> Self:
        """Restore from `parameters`.

        Raises:
            KeyError: A value is missing.
            ValueError: Shapes do not match, or a scale is not above 0.
        """
        mean, sd, centroids, width = (np.asarray(parameters[name]) for name in ("mean", "sd", "centroids", "width"))
        if mean.ndim != 1 or sd.shape != mean.shape or centroids.shape[1:] != mean.shape or not len(centroids):
            raise ValueError("the arrays of the prototypes do not match")
        if width.shape != (1,) or not width[0] > 0:
            raise ValueError("the width of the prototypes is not above 0")
        return cls(scaler_of(parameters), centroids, float(width[0]))

    def standardized(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardize (n, D) regions."""
        return standardize(regions, self.scaler)

    @property
    def parameters(self) -> dict[str, NDArray[np.floating]]:
        """The fitted values, by name."""
        return {
            "mean": self.scaler.mean,
            "sd": self.scaler.sd,
            "centroids": self.centroids,
            "width": np.array([self.width]),
        }


def scaler_of(parameters: Mapping[str, NDArray[Any]]) -> Scaler:
    """Restore the scaler of the training regions.

    Raises:
        KeyError: A value is missing.
        ValueError: A standard deviation is not above 0.
    """
    mean, sd = np.asarray(parameters["mean"]), np.asarray(parameters["sd"])
    if not (sd > 0).all():
        raise ValueError("a standard deviation is not above 0")
    return Scaler(mean, sd)


def standardize(regions: NDArray[np.float32], scaler: Scaler) -> NDArray[np.float32]:
    """Standardize (n, D) regions."""
    scaled: NDArray[np.float32] = (regions - scaler.mean) / scaler.sd
    return scaled


def fit_prototypes(bags: Bags, train: IntArray, count: int, seed: int) -> tuple[CohortPrototypes, NDArray[np.float32]]:
    """Standardize the training regions and cluster them.

    Args:
        bags: Bags of regions.
        train: Positions of the training slides; no others are used.
        count: Number of prototypes; fewer if there are fewer training regions.
        seed: Random seed of k-means, and of the sample if there are more than 100 000 training regions.

    Returns:
        The prototypes, and the (m, D) standardized training regions: all, or a random 100 000.
    """
    scaler = bags.scaler(train)
    rows = bags.regions_of(train)
    if len(rows) > MOST_REGIONS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_REGIONS, replace=False))
    known = (bags.features[rows] - scaler.mean) / scaler.sd
    with threadpool_limits(1), warnings.catch_warnings():  # results depend on the number of threads
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # with fewer distinct regions than prototypes, some coincide
        model = KMeans(min(count, len(known)), n_init=_RESTARTS, random_state=seed).fit(known)
    centroids = model.cluster_centers_.astype(np.float32)
    width = max(float(squared_distances(known, centroids).min(axis=1).mean()), float(np.finfo(np.float32).tiny))
    return CohortPrototypes(scaler, centroids, width), known


def squared_distances(vectors: NDArray[np.floating], centroids: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the squared distances of (n, D) vectors to (K, D) centroids, (n, K)."""
    squares = np.square(vectors, dtype=np.float64).sum(1)[:, None] + np.square(centroids, dtype=np.float64).sum(1)
    distances: NDArray[np.float64] = np.maximum(squares - 2.0 * (vectors @ centroids.T), 0)
    return distances
