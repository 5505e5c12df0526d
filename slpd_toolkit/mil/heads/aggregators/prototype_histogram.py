"""Logistic regression on a histogram of the slide's regions over 16 clusters of the training regions.

The mean embedding of a slide discards nonlinear information: slides with different regions can have equal means. The
histogram retains it, and a logistic regression on it needs few labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.mil.descriptors.cohort_prototypes import PROTOTYPES, fit_prototypes
from slpd_toolkit.mil.descriptors.kinds.histogram import soft_histogram
from slpd_toolkit.mil.heads.aggregators.probe import fit_linear
from slpd_toolkit.mil.heads.vector_probe import Linear, VectorProbe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags

_NAMES = ("regions.mean", "regions.sd", "regions.centroids", "regions.width")


class PrototypeHistogram:
    """Soft histograms over K' prototypes of the training regions; see `descriptors.kinds.histogram`.

    Args:
        prototypes: K'; fewer if there are fewer training regions.
    """

    def __init__(self, prototypes: int = PROTOTYPES) -> None:
        self._prototypes = prototypes

    def fit(self, bags: Bags, train: IntArray, seed: int) -> dict[str, NDArray[Any]]:
        """Cluster the regions of the training slides, which also determine standardization and width."""
        cohort, _ = fit_prototypes(bags, train, self._prototypes, seed)
        values = (cohort.scaler.mean, cohort.scaler.sd, cohort.centroids, np.array(cohort.width))
        return dict(zip(_NAMES, values, strict=True))

    def compute(self, tensors: Mapping[str, NDArray[Any]], bags: Bags, rows: IntArray) -> NDArray[np.float32]:
        """Return histograms that sum to 1, (n, K'), slide by slide."""
        mean, sd, centroids, width = (tensors[name] for name in _NAMES)

        def standardized(regions: NDArray[np.float32]) -> NDArray[np.float32]:
            scaled: NDArray[np.float32] = (regions - mean) / sd
            return scaled

        found = [
            soft_histogram(
                bags.features[bags.offsets[row] : bags.offsets[row + 1]], standardized, centroids, float(width)
            )
            for row in rows
        ]
        return np.array(found, dtype=np.float32).reshape(len(rows), len(centroids))


HEAD = VectorProbe(PrototypeHistogram(), fit_linear, Linear)
