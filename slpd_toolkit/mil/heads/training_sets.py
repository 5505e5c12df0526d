"""Sets of the training slides, as part of a head's state, and the similarity of other slides to them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.set_similarity import Sets, padded_sets, similarities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags

MOST_VECTORS = 8
_VECTORS, _WEIGHTS = "sets.vectors", "sets.weights"


@lru_cache(maxsize=2)
def small_sets(bags: Bags) -> Bags:
    """Return the bags; those with more than 8 vectors are reduced to 4 prototypes. Kept for the last two bags."""
    if bags.weights is not None or bags.sizes.max() <= MOST_VECTORS:
        return bags
    reduced = ChosenDescriptor("prototypes").apply(bags, bags.offsets[:0])
    parts, weights = [], []
    for row, size in enumerate(bags.sizes):
        source = reduced if size > MOST_VECTORS else bags
        inside = slice(int(source.offsets[row]), int(source.offsets[row + 1]))
        parts.append(source.features[inside])
        equal = np.full(inside.stop - inside.start, 1 / (inside.stop - inside.start), np.float32)
        weights.append(equal if source.weights is None else source.weights[inside])
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return type(bags)(bags.slides, np.concatenate(parts), offsets, np.concatenate(weights))


def training_sets(bags: Bags, rows: IntArray) -> dict[str, NDArray[Any]]:
    """Return the sets of the training slides at positions `rows`, as tensors of a state."""
    sets = padded_sets(small_sets(bags).subset(rows))
    return {_VECTORS: sets.vectors, _WEIGHTS: sets.weights}


def similarities_to(tensors: Mapping[str, NDArray[Any]], bags: Bags, rows: IntArray) -> FloatArray:
    """Return the similarities of the slides at positions `rows` to the training slides, (len(rows), n)."""
    return similarities(padded_sets(small_sets(bags).subset(rows)), Sets(tensors[_VECTORS], tensors[_WEIGHTS]))
