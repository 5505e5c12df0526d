"""Nearest neighbors on the mean embedding."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from sklearn.neighbors import NearestNeighbors

from slpd_toolkit.mil.heads.vector_probe import VectorProbe, mean_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.tasks.likelihoods import Fitted, Objective

_NEIGHBOURS = (5, 10, 20, 40)


def fit_neighbours(known: FloatArray, objective: Objective, rows: Tensor) -> Iterator[tuple[str, Fitted]]:
    """Fit K nearest neighbors by Euclidean distance, for several K; predicts the estimate of least loss for K slides.

    One additional neighbor represents the average slide, so that no prediction is certain.

    Args:
        known: (n, D) embeddings of the training slides.
        objective: Objective to estimate from neighbors.
        rows: (n,) positions of these slides.
    """
    index = NearestNeighbors().fit(known)

    def fitted(embeddings: FloatArray, count: int) -> Tensor:
        nearest = torch.tensor(index.kneighbors(embeddings, count, return_distance=False))
        shares = torch.full((len(embeddings), len(rows)), 1 / len(rows))
        shares.scatter_add_(1, nearest, torch.ones(nearest.shape))
        return objective.estimate(shares / (count + 1), rows)

    # With more than half of the slides as neighbors, predictions hardly differ between slides.
    for count in [count for count in _NEIGHBOURS if 2 * count <= len(rows)] or [max(1, len(rows) // 2)]:
        yield f"{count} neighbours", partial(fitted, count=count)


HEAD = VectorProbe(mean_vectors, fit_neighbours)
