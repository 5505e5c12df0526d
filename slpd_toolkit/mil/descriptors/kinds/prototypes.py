"""The slide's own K prototypes, as a set of weighted unit vectors.

k-means of the slide's L2-normalized regions with K clusters (faiss, 10 iterations, the best of 5 restarts, seed 0), as
`slpd pretrain` clusters slides (SLPD, MICCAI 2023). Each prototype is the L2-normalized centroid of a cluster, and its
weight the share of the slide's regions in it. A slide with K regions or fewer is the set of its regions. Nothing is
fitted on other slides. Sets are compared by matching: see `set_similarity`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slpd_toolkit.core.vectors import kmeans, one_faiss_thread
from slpd_toolkit.mil.descriptors.descriptor import Described, Descriptor, Fitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


def slide_prototypes(regions: NDArray[np.float32], clusters: int) -> Described:
    """Cluster the regions of a slide, (n, D) -> at most K unit vectors with their weights."""
    unit = unit_rows(regions)
    if len(unit) <= clusters:
        return Described(unit, np.full(len(unit), 1 / len(unit), np.float32))
    with one_faiss_thread():
        centroids, assigned = kmeans(unit, clusters)
    counts = np.bincount(assigned, minlength=clusters)
    return Described(unit_rows(centroids[counts > 0]), (counts[counts > 0] / len(unit)).astype(np.float32))


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale vectors to unit length; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


class Prototypes(Descriptor):
    """See the module."""

    is_fitted: ClassVar = False
    is_set: ClassVar = True
    clusters: ClassVar = 4

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.fit`."""
        return self.restore({}, clusters=clusters)

    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.restore`."""
        return Fitted(lambda regions: slide_prototypes(regions, clusters), {})


DESCRIPTOR = Prototypes()
