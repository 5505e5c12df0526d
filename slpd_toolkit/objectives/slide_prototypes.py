"""Slide prototypes: k-means of each slide's regions, and the targets of a training step derived from them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.core.vectors import kmeans, one_faiss_thread
from slpd_toolkit.objectives.matching import corresponding, nearest_slides

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from slpd_toolkit.config.objective import SlidePrototypesConfig

COINCIDENT_COSINE = 0.9999


class PrototypeTargets(NamedTuple):
    """Prototypes used as targets of a batch's views. Rows of regions without prototypes are zero."""

    valid: Tensor
    """(B,) bool: the region's slide has prototypes."""
    own: Tensor
    """(B, d): prototype of the region's own cluster."""
    neighbours: Tensor
    """(r, B, d): corresponding prototypes of the slide's neighbors, most similar slide first."""


@dataclass(frozen=True, slots=True)
class PrototypeBank:
    """Prototypes of the N slides with enough regions, and the assignment of the cohort's R regions to them."""

    prototypes: Tensor
    """(N, K, d) float32 unit vectors in bottleneck space."""
    slides: Tensor
    """(N,) int64: index of each of these slides in the cohort."""
    row: Tensor
    """(R,) int64: row of the region's slide in `prototypes`; -1 for regions without prototypes."""
    cluster: Tensor
    """(R,) int64: index of the region's prototype among the K of its slide; -1 for regions without prototypes."""
    neighbours: Tensor
    """(N, r) int64: rows of the most similar other slides, most similar first."""
    similarity: Tensor
    """(N, r): their total cosine, at most K."""
    counterpart: Tensor
    """(N, K, r) int64: prototype of each neighbor that corresponds to each of the slide's own."""

    def targets(self, regions: Tensor) -> PrototypeTargets:
        """Return the targets of a batch, given the (B,) indices of its regions in the cohort, on the bank's device."""
        row, cluster = self.row[regions], self.cluster[regions]
        own = self.prototypes[row, cluster]
        neighbours = self.prototypes[self.neighbours[row], self.counterpart[row, cluster]]
        valid = row >= 0
        return PrototypeTargets(valid, own * valid[:, None], (neighbours * valid[:, None, None]).transpose(0, 1))

    def to(self, device: torch.device | str) -> PrototypeBank:
        """Return a copy of the bank on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def cluster_sizes(self) -> Tensor:
        """Return the number of regions of every prototype: (N, K) int64."""
        n, k, _ = self.prototypes.shape
        kept = self.row >= 0
        return torch.bincount(self.row[kept] * k + self.cluster[kept], minlength=n * k).view(n, k)

    def quality(self) -> ClusterQuality:
        """Return cluster statistics, reported at each epoch."""
        sizes = self.cluster_sizes()
        cosines = self.prototypes @ self.prototypes.mT
        coincides = (cosines.tril(-1) > COINCIDENT_COSINE).any(-1)
        return ClusterQuality(
            smallest=int(sizes.min()),
            median=float(sizes.double().quantile(0.5)),
            largest=int(sizes.max()),
            empty=float((sizes == 0).double().mean()),
            degenerate=float(((sizes == 1) | coincides).double().mean()),
        )


class ClusterQuality(NamedTuple):
    """Cluster sizes (in regions) over all slides, and fractions of uninformative clusters."""

    smallest: int
    median: float
    largest: int
    empty: float
    """Fraction of prototypes without any region."""
    degenerate: float
    """Fraction of prototypes with a single region, or with the same direction as another prototype of their slide."""


def build_bank(
    bottleneck: Tensor,
    slide_of_region: Tensor,
    config: SlidePrototypesConfig,
    *,
    backbone: Tensor | None = None,
    seed: int = 0,
    before_each: Callable[[], None] = lambda: None,
) -> PrototypeBank:
    """Cluster every slide with enough regions, and find its most similar slides.

    Args:
        bottleneck: (R, d) unit vectors of all regions from the teacher.
        slide_of_region: (R,) int64 index of each region's slide in the cohort; regions can be in any order.
        config: Number of prototypes and neighbors, and the features to cluster.
        backbone: (R, e) region embeddings of the backbone, needed if `config.cluster_features` is "backbone". They are
            scaled to unit length. A prototype is then the normalized mean bottleneck of its cluster.
        seed: Seed of the k-means of every slide.
        before_each: Called before each slide is clustered; its exceptions propagate.

    Raises:
        UsageError: Too few slides have enough regions.
        ValueError: The backbone embeddings are needed but missing.
    """
    k, r = config.clusters, config.neighbours
    cluster_features = None
    if config.cluster_features == "backbone":
        if backbone is None:
            raise ValueError("cluster_features='backbone' requires the backbone embeddings")
        cluster_features = F.normalize(backbone.float(), dim=-1)  # as the published code does before k-means
    vectors = bottleneck.float().cpu().numpy()
    features = vectors if cluster_features is None else cluster_features.float().cpu().numpy()
    slides, members = _eligible(slide_of_region.cpu().numpy(), config.least_regions)
    if len(slides) <= r:
        raise UsageError(
            f"{count(len(slides), 'slide has', 'slides have')} at least {count(config.least_regions, 'region')}, but "
            f"{r} neighbors require {r + 1} slides.",
            hint="Lower min_regions or neighbours, or add slides.",
        )
    prototypes = np.empty((len(slides), k, vectors.shape[1]), dtype=np.float32)
    row = np.full(len(vectors), -1)
    cluster = np.full(len(vectors), -1)
    with one_faiss_thread():
        for i, regions in enumerate(members):
            before_each()
            centroids, assigned = kmeans(features[regions], k, seed=seed)
            if cluster_features is not None:
                centroids = _mean_members(vectors[regions], features[regions], centroids, assigned)
            prototypes[i], row[regions], cluster[regions] = centroids, i, assigned
    unit = F.normalize(torch.from_numpy(prototypes), dim=-1)
    near = nearest_slides(unit, r)
    return PrototypeBank(
        prototypes=unit,
        slides=torch.from_numpy(slides),
        row=torch.from_numpy(row),
        cluster=torch.from_numpy(cluster),
        neighbours=near.index,
        similarity=near.similarity,
        counterpart=corresponding(unit, near, config.correspondence),
    )


def _eligible(
    slide_of_region: NDArray[np.int64], min_regions: int
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the slides with enough regions, in ascending order, and the regions of each."""
    order = np.argsort(slide_of_region, kind="stable")
    slides, starts, counts = np.unique(slide_of_region[order], return_index=True, return_counts=True)
    enough = counts >= min_regions
    spans = zip(starts[enough], counts[enough], strict=True)
    return slides[enough].astype(np.int64), [order[start : start + count] for start, count in spans]


def _mean_members(
    vectors: NDArray[np.float32],
    features: NDArray[np.float32],
    centroids: NDArray[np.float32],
    assigned: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the mean vector of each cluster; for an empty cluster, the vector of the region nearest its centroid."""
    means = np.empty((len(centroids), vectors.shape[1]), dtype=np.float32)
    for j, centroid in enumerate(centroids):
        inside = assigned == j
        nearest = np.square(features - centroid).sum(1).argmin()
        means[j] = vectors[inside].mean(0) if inside.any() else vectors[nearest]
    return means
