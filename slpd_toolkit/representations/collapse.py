"""Sanity check of slide vectors: whether they differ between slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.text import count, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

CLOSE_COSINE = 0.97
FEWEST = 3
FEWEST_WITH_OUTLIERS = 5
MOST_OUTLIERS = 0.1
MOST_COMPARED = 2048


def collapse_warning(name: str, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> str:
    """Describe suspicious vectors: identical ones, or nearly all within a cosine distance of 0.03 of one another.

    Encoders whose coordinates or inputs are wrong have produced such vectors without an error (STAMP, issue 159). Up to
    a tenth of the vectors (from five vectors on, at least one) may be further away, so that a few slides that were read
    correctly do not hide it.

    Args:
        name: Name of the vectors, for the message.
        ids: S slides or patients.
        vectors: (S, D). Of more than 2 048, an evenly spaced sample is compared.

    Returns:
        A warning; empty if there is nothing to report, or fewer than three vectors.
    """
    if len(ids) < FEWEST:
        return ""
    return " ".join(filter(None, (_equal(name, ids, vectors), _close(name, ids, vectors))))


def _equal(name: str, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> str:
    _, first, counts = np.unique(vectors, axis=0, return_index=True, return_counts=True)
    if not (counts > 1).any():
        return ""
    same = np.flatnonzero((vectors == vectors[first[int(counts.argmax())]]).all(axis=1)).tolist()
    return (
        f"{name}: {int(counts[counts > 1].sum())} of {count(len(ids), 'vector')} are equal to another one: "
        f"{listed([ids[index] for index in same])}. Check how they were made."
    )


def _close(name: str, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> str:
    rows = np.linspace(0, len(ids) - 1, min(len(ids), MOST_COMPARED)).astype(np.int64)
    sample = vectors[rows].astype(np.float64)
    lengths = np.linalg.norm(sample, axis=1, keepdims=True)
    compared, unit = rows[lengths[:, 0] > 0], sample[lengths[:, 0] > 0] / lengths[lengths > 0][:, None]
    if vectors.shape[1] < FEWEST or len(unit) < FEWEST:
        return ""
    cosines = unit @ unit.T
    order = np.argsort(-cosines.mean(axis=1), kind="stable")  # those unlike the others last
    pairs = np.tril(cosines[np.ix_(order, order)])
    pairs[np.triu_indices(len(pairs), 1)] = 1
    least = np.minimum.accumulate(pairs.min(axis=1))  # of the first 1, 2, ... vectors
    close = int((least >= CLOSE_COSINE).sum())
    apart = len(unit) - close
    if apart > max(int(len(unit) >= FEWEST_WITH_OUTLIERS), int(MOST_OUTLIERS * len(unit))):
        return ""
    number = f"{close} of {len(unit)}" if apart else f"all {len(ids)}"
    others = f"all but {listed([ids[row] for row in np.sort(compared[order[close:]])])}; " if apart else ""
    return (
        f"{name}: {number} vectors are within a cosine distance of {max(1 - float(least[close - 1]), 0):.2g} of one "
        f"another ({others}smallest cosine similarity {least[close - 1]:.4f}). The model may have collapsed, or its "
        "coordinates or inputs may have been wrong."
    )
