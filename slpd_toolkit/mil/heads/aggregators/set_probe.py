"""Logistic regression on the similarities to the training slides, by the matching of prototype sets.

The features of a slide are its similarities to all training slides (`set-knn` explains them): an empirical kernel map,
which needs no positive definite kernel (Pekalska & Duin, Pattern Recognition Letters 2002;23:943).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.mil.heads.aggregators.probe import fit_linear
from slpd_toolkit.mil.heads.training_sets import similarities_to, training_sets
from slpd_toolkit.mil.heads.vector_probe import Linear, VectorProbe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


class Similarities:
    """The similarities of a slide to the training slides."""

    def fit(self, bags: Bags, train: IntArray, seed: int) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """See `SlideVectors.fit`."""
        return training_sets(bags, train)

    def compute(self, tensors: Mapping[str, NDArray[Any]], bags: Bags, rows: IntArray) -> NDArray[np.float32]:
        """See `SlideVectors.compute`."""
        return similarities_to(tensors, bags, rows).astype(np.float32)


HEAD = VectorProbe(Similarities(), fit_linear, Linear)
