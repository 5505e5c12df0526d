"""Logistic regression on a histogram of the slide's regions over 16 clusters of the training regions.

The mean embedding of a slide discards nonlinear information: slides with different regions can have equal means. The
histogram retains it, and a logistic regression on it needs few labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.mil.descriptors.cohort_prototypes import PROTOTYPES
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.heads.aggregators.probe import fit_linear
from slpd_toolkit.mil.heads.vector_probe import VectorProbe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags


def prototype_histogram(
    bags: Bags, train: IntArray, *, prototypes: int = PROTOTYPES, seed: int = 0
) -> NDArray[np.float32]:
    """Compute soft histograms of all slides over K' prototypes; see `descriptors.kinds.histogram`.

    Args:
        bags: All slides.
        train: Slides whose regions determine prototypes, standardization and width.
        prototypes: K'; fewer if there are fewer training regions.
        seed: Random seed of k-means.

    Returns:
        Histograms that sum to 1, (S, K'), in the order of the bags.
    """
    return ChosenDescriptor("histogram", prototypes).apply(bags, train, seed).features


def _vectors(bags: Bags, train: IntArray, seed: int) -> NDArray[np.float32]:
    return prototype_histogram(bags, train, seed=seed)


HEAD = VectorProbe(_vectors, fit_linear)
