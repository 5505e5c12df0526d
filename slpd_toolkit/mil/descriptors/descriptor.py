"""Base class of descriptors, and their application to bags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from slpd_toolkit.config.mil_eval import DESCRIPTORS
from slpd_toolkit.mil.bags import Bags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import IntArray

MEAN_TOKEN = "+mean-token"  # noqa: S105
"""Addition to the name of a descriptor."""
PART = 8192
"""Regions of a slide that are processed at a time, so that temporary arrays do not grow with the slide."""


class Described(NamedTuple):
    """A slide or patient: one vector, or a set of weighted vectors."""

    vectors: NDArray[np.float32]
    """(k, E); k is 1 unless the descriptor is a set."""
    weights: NDArray[np.float32]
    """(k,) weights that sum to 1."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A descriptor whose cohort-level parameters are known."""

    describe: Callable[[NDArray[np.float32]], Described]
    """(n, D) regions of a slide or patient, n >= 1 -> its descriptor. Deterministic."""
    parameters: Mapping[str, NDArray[np.floating]]
    """What was fitted, by name; empty for descriptors that are not fitted. `Descriptor.restore` takes it."""


class Descriptor(ABC):
    """Maps any number of regions to a vector of fixed length, or to a set of at most K vectors."""

    is_fitted: ClassVar[bool]
    """Whether it has cohort-level parameters. They are fitted on training slides only."""
    is_set: ClassVar[bool] = False
    """Whether it is a set of weighted vectors."""
    clusters: ClassVar[int] = 0
    """Default number of prototypes K; 0 if the descriptor has none."""

    @abstractmethod
    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:
        """Fit the cohort-level parameters.

        Args:
            bags: Bags of regions.
            train: Positions of the slides to fit on; no others are used.
            clusters: Number of prototypes K.
            seed: Random seed.
        """

    @abstractmethod
    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:
        """Return the descriptor with parameters that were fitted before; its results are bit-identical.

        Args:
            parameters: `Fitted.parameters`.
            clusters: Number of prototypes K.

        Raises:
            KeyError: A parameter is missing.
            ValueError: Parameters do not match.
        """


@dataclass(frozen=True)
class ChosenDescriptor:
    """A descriptor by name, with its number of prototypes. Small and picklable: worker processes import it by name."""

    name: str
    """File in `kinds/`."""
    clusters: int = 0
    """Number of prototypes K. 0: the descriptor's default."""
    mean_token: bool = False
    """Whether the mean token of the slide, which is in `Bags.appended`, is appended to the vector."""

    @property
    def label(self) -> str:
        """Name and additions, as in `source#label`; without the number of prototypes."""
        return f"{self.name}{MEAN_TOKEN}" if self.mean_token else self.name

    def load(self) -> Descriptor:
        """Import the descriptor.

        Raises:
            UsageError: There is none with this name; the message lists those that exist.
        """
        found: Descriptor = DESCRIPTORS.load(self.name).DESCRIPTOR
        return found

    def fit(self, bags: Bags, train: IntArray, seed: int = 0) -> Fitted:
        """Fit it on the slides at the positions `train`; see `Descriptor.fit`."""
        descriptor = self.load()
        return descriptor.fit(bags, train, clusters=self.clusters or descriptor.clusters, seed=seed)

    def restore(self, parameters: Mapping[str, NDArray[Any]]) -> Fitted:
        """Restore it from `Fitted.parameters`; see `Descriptor.restore`."""
        descriptor = self.load()
        return descriptor.restore(parameters, clusters=self.clusters or descriptor.clusters)

    def apply(self, bags: Bags, train: IntArray, seed: int = 0) -> Bags:
        """Fit it on the slides at the positions `train`, and describe all slides."""
        return describe_bags(self.fit(bags, train, seed), bags)


def describe_bags(fitted: Fitted, bags: Bags) -> Bags:
    """Describe every slide of the bags, and append the values of the slide, if there are any."""
    found = [
        fitted.describe(bags.features[start:stop]) for start, stop in zip(bags.offsets, bags.offsets[1:], strict=False)
    ]
    counts = [len(each.vectors) for each in found]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    vectors = np.concatenate([each.vectors for each in found])
    if bags.appended is not None:
        vectors = np.hstack([vectors, np.repeat(bags.appended, counts, axis=0)])
    return Bags(
        bags.slides,
        vectors,
        offsets.astype(np.int64),
        np.concatenate([each.weights for each in found]),
    )


def as_vector(values: NDArray[np.floating]) -> Described:
    """Wrap a vector, (E,)."""
    return Described(values.astype(np.float32)[None], np.ones(1, np.float32))
