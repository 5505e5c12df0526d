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
MOST_COMPARED = 2048


def collapse_warning(name: str, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> str:
    """Describe suspicious vectors: identical ones, or all within a cosine distance of 0.03 of one another.

    Encoders whose coordinates or inputs are wrong have produced such vectors without an error (STAMP, issue 159).

    Args:
        name: Name of the vectors, for the message.
        ids: S slides or patients.
        vectors: (S, D). Of more than 2 048, an evenly spaced sample is compared.

    Returns:
        A warning; empty if there is nothing to report, or fewer than three vectors.
    """
    if len(ids) < FEWEST:
        return ""
    _, first, counts = np.unique(vectors, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        most = int(counts.argmax())
        same = np.flatnonzero((vectors == vectors[first[most]]).all(axis=1)).tolist()
        return (
            f"{name}: {int(counts[counts > 1].sum())} of {count(len(ids), 'vector')} are equal to "
            f"another one: "
            f"{listed([ids[index] for index in same])}. Check how they were made."
        )
    sample = vectors[np.linspace(0, len(ids) - 1, min(len(ids), MOST_COMPARED)).astype(np.int64)].astype(np.float64)
    lengths = np.linalg.norm(sample, axis=1, keepdims=True)
    unit = sample[lengths[:, 0] > 0] / lengths[lengths > 0][:, None]
    if vectors.shape[1] < FEWEST or len(unit) < FEWEST:
        return ""
    least = float((unit @ unit.T).min())
    if least < CLOSE_COSINE:
        return ""
    return (
        f"{name}: all {len(ids)} vectors are within a cosine distance of {max(1 - least, 0):.2g} of one another "
        f"(smallest cosine similarity {least:.4f}). The model may have collapsed, or its coordinates or inputs may "
        "have been wrong."
    )
