"""Mean and standard deviation of each feature over the regions.

    v = [m, s],   m = 1/n sum_i x_i,   s = sqrt(1/n sum_i (x_i - m)^2)     (2 D numbers)

Statistics pooling (Snyder et al., Interspeech 2017). A slide with one region has s = 0. Nothing is fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slpd_toolkit.mil.descriptors.descriptor import PART, Described, Descriptor, Fitted, as_vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


def describe(regions: NDArray[np.float32]) -> Described:
    """(n, D) -> (1, 2 D)."""
    mean = regions.mean(axis=0, dtype=np.float64)
    parts = (regions[start : start + PART] for start in range(0, len(regions), PART))
    squares = sum(np.square(part - mean).sum(axis=0) for part in parts)
    return as_vector(np.concatenate([mean, np.sqrt(squares / len(regions))]))


class MeanSd(Descriptor):
    """See the module."""

    is_fitted: ClassVar = False

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.fit`."""
        return Fitted(describe, {})

    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.restore`."""
        return Fitted(describe, {})


DESCRIPTOR = MeanSd()
