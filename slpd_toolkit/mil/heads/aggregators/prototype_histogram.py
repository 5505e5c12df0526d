"""Logistic regression on a histogram of the slide's regions over 16 clusters of the training regions.

The mean embedding of a slide discards nonlinear information: slides with different regions can have equal means. The
histogram retains it, and a logistic regression on it needs few labels.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from slpd_toolkit.mil.heads.aggregators.probe import fit_linear
from slpd_toolkit.mil.heads.vector_probe import VectorProbe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags

PROTOTYPES = 16
_RESTARTS = 3
_REGIONS_AT_ONCE = 8192


def prototype_histogram(
    bags: Bags, train: IntArray, *, prototypes: int = PROTOTYPES, seed: int = 0
) -> NDArray[np.float32]:
    """Compute soft histograms of all slides over K' prototypes, the k-means centroids of the training regions only.

    With standardized regions x and centroids m_k, the assignment of a region and the histogram of a slide are

        a_k = softmax_k(-|x - m_k|^2 / s),   s = mean over training regions of min_k |x - m_k|^2,
        h_k = mean of a_k over the slide's regions.

    Regions are assigned to a single prototype if clusters are well separated relative to their width; otherwise the
    assignment is shared.

    Args:
        bags: All slides.
        train: Slides whose regions determine prototypes, standardization and width.
        prototypes: K'; fewer if there are fewer training regions.
        seed: Random seed of k-means.

    Returns:
        Histograms that sum to 1, (S, K'), in the order of the bags.
    """
    scaler = bags.scaler(train)
    known = (bags.features[bags.regions_of(train)] - scaler.mean) / scaler.sd
    with threadpool_limits(1), warnings.catch_warnings():  # results depend on the number of threads
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # with fewer distinct regions than prototypes, some coincide
        model = KMeans(min(prototypes, len(known)), n_init=_RESTARTS, random_state=seed).fit(known)
    centroids = model.cluster_centers_.astype(np.float32)
    width = max(float(_squared_distances(known, centroids).min(axis=1).mean()), float(np.finfo(np.float32).tiny))
    shares = np.empty((len(bags.features), len(centroids)), dtype=np.float32)
    for start in range(0, len(shares), _REGIONS_AT_ONCE):
        part = slice(start, start + _REGIONS_AT_ONCE)
        distances = _squared_distances((bags.features[part] - scaler.mean) / scaler.sd, centroids)
        weights = np.exp((distances.min(axis=1, keepdims=True) - distances) / width)
        shares[part] = weights / weights.sum(axis=1, keepdims=True)
    return np.stack([bag.mean(axis=0) for bag in np.split(shares, bags.offsets[1:-1])])


def _squared_distances(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, K')."""
    squares = np.square(vectors, dtype=np.float64).sum(1)[:, None] + np.square(centroids, dtype=np.float64).sum(1)
    distances: NDArray[np.float64] = np.maximum(squares - 2.0 * (vectors @ centroids.T), 0)
    return distances


def _vectors(bags: Bags, train: IntArray, seed: int) -> NDArray[np.float32]:
    return prototype_histogram(bags, train, seed=seed)


HEAD = VectorProbe(_vectors, fit_linear)
