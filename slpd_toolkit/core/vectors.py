"""K-means and nearest-neighbor search with faiss, which is imported here only."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import faiss
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def kmeans(
    vectors: NDArray[np.float32], k: int, *, seed: int = 0, iterations: int = 10, restarts: int = 5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run Lloyd's k-means (faiss) on all vectors, and return the best of several restarts.

    Args:
        vectors: (n, d) with n >= k.
        k: Number of clusters.
        seed: Seed of the restarts.
        iterations: Lloyd iterations per restart.
        restarts: Number of restarts.

    Returns:
        The centroids, (k, d), and the nearest centroid of every vector, (n,).
    """
    run = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        min_points_per_centroid=1,  # slides are small: below 39 faiss warns on standard error (above 256 it samples)
        max_points_per_centroid=len(vectors),
    )
    run.train(np.ascontiguousarray(vectors))
    _, assigned = run.assign(np.ascontiguousarray(vectors))
    assert run.centroids is not None  # trained
    return run.centroids, assigned.astype(np.int64)


@contextmanager
def one_faiss_thread() -> Iterator[None]:
    """Limit faiss to one thread: slides are so small that starting threads takes 100 times as long as clustering."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
