"""Mean of the region embeddings.

    v = 1/n sum_i x_i                                                       (D numbers)

The baseline of slide-level evaluations (HIPT, CVPR 2022, section 4). Nothing is fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slpd_toolkit.mil.descriptors.descriptor import Described, Descriptor, Fitted, as_vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


def describe(regions: NDArray[np.float32]) -> Described:
    """(n, D) -> (1, D)."""
    return as_vector(regions.mean(axis=0, dtype=np.float64))


class Mean(Descriptor):
    """See the module."""

    is_fitted: ClassVar = False

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.fit`."""
        return Fitted(describe, {})

    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.restore`."""
        return Fitted(describe, {})


DESCRIPTOR = Mean()
