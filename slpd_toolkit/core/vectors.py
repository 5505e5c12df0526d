"""K-means and nearest-neighbor search with faiss, which is imported here only, and only when it is used."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    import faiss

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
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class CosineIndex:
    """Nearest neighbors of unit vectors by cosine: exact, by comparison with all of them.

    Args:
        vectors: (N, d), scaled to unit length: in place if they are a contiguous float32 array. The index keeps a copy.
    """

    def __init__(self, vectors: NDArray[np.floating]) -> None:
        import faiss

        unit = np.ascontiguousarray(vectors, dtype=np.float32)
        faiss.normalize_L2(unit)
        self._index = faiss.IndexFlatIP(unit.shape[1])
        self._index.add(unit)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(
        self, query: NDArray[np.floating], count: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the vectors with the largest cosine.

        Args:
            query: (d,)
            count: Number of vectors to find; fewer if fewer are allowed.
            allowed: (N,) vectors that may be found.

        Returns:
            Their positions and cosines, largest first.
        """
        import faiss

        unit = np.array(query, dtype=np.float32).reshape(1, -1)
        faiss.normalize_L2(unit)
        bits = np.packbits(allowed, bitorder="little")
        selected = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        parameters = faiss.SearchParameters()
        parameters.sel = selected
        wanted = min(count, int(allowed.sum()))
        cosines, found = self._index.search(unit, wanted, params=parameters)
        return found[0].astype(np.int64), cosines[0]
