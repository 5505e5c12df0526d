"""Soft histogram of the regions over cohort prototypes.

With standardized regions x and the k-means centroids m_k of the training regions,

    a_ik = softmax_k(-|x_i - m_k|^2 / s),   s = mean over training regions of min_k |x - m_k|^2,
    v_k  = 1/n sum_i a_ik                                                   (K numbers, default 16)

A bag of visual words with soft assignment (van Gemert et al., TPAMI 2010;32:1271). Regions are assigned to a single
prototype if clusters are well separated relative to their width; otherwise the assignment is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slpd_toolkit.mil.descriptors.cohort_prototypes import (
    PROTOTYPES,
    CohortPrototypes,
    fit_prototypes,
    squared_distances,
)
from slpd_toolkit.mil.descriptors.descriptor import PART, Described, Descriptor, Fitted, as_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


def soft_histogram(
    regions: NDArray[np.float32],
    standardized: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    centroids: NDArray[np.float32],
    width: float,
) -> NDArray[np.float64]:
    """Compute the histogram of a slide, (K,); see the module.

    Args:
        regions: (n, D), n >= 1.
        standardized: Standardizes regions.
        centroids: (K, D), standardized.
        width: s.
    """
    total = np.zeros(len(centroids))
    for start in range(0, len(regions), PART):
        distances = squared_distances(standardized(regions[start : start + PART]), centroids)
        weights = np.exp((distances.min(axis=1, keepdims=True) - distances) / width)
        total += (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
    histogram: NDArray[np.float64] = total / len(regions)
    return histogram


class Histogram(Descriptor):
    """See the module."""

    is_fitted: ClassVar = True
    clusters: ClassVar = PROTOTYPES

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:
        """See `Descriptor.fit`."""
        cohort, _ = fit_prototypes(bags, train, clusters, seed)
        return self.restore(cohort.parameters, clusters=clusters)

    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.restore`."""
        cohort = CohortPrototypes.of_parameters(parameters)

        def describe(regions: NDArray[np.float32]) -> Described:
            return as_vector(soft_histogram(regions, cohort.standardized, cohort.centroids, cohort.width))

        return Fitted(describe, cohort.parameters)


DESCRIPTOR = Histogram()
