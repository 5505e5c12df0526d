"""Soft histogram of the regions over cohort prototypes.

With standardized regions x and the k-means centroids m_k of the training regions,

    a_ik = softmax_k(-|x_i - m_k|^2 / s),   s = mean over training regions of min_k |x - m_k|^2,
    v_k  = 1/n sum_i a_ik                                                   (K numbers, default 16)

A bag of visual words with soft assignment (van Gemert et al., TPAMI 2010;32:1271). Regions are assigned to a single
prototype if clusters are well separated relative to their width; otherwise the assignment is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.mil.descriptors.cohort_prototypes import PROTOTYPES, fit_prototypes, squared_distances
from slpd_toolkit.mil.descriptors.descriptor import PART, Described, Descriptor, Fitted, as_vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


class Histogram(Descriptor):
    """See the module."""

    is_fitted: ClassVar = True
    clusters: ClassVar = PROTOTYPES

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:
        """See `Descriptor.fit`."""
        cohort = fit_prototypes(bags, train, clusters, seed)

        def describe(regions: NDArray[np.float32]) -> Described:
            total = np.zeros(len(cohort.centroids))
            for start in range(0, len(regions), PART):
                distances = squared_distances(cohort.standardized(regions[start : start + PART]), cohort.centroids)
                weights = np.exp((distances.min(axis=1, keepdims=True) - distances) / cohort.width)
                total += (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
            return as_vector(total / len(regions))

        return Fitted(describe, cohort.parameters)


DESCRIPTOR = Histogram()
