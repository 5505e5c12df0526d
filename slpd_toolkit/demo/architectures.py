"""The ground truth: kinds of tissue, architectures (arrangements of kinds), and classes (mixtures of architectures)."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.demo.fields import Floats


class Kind(IntEnum):
    """Kind of tissue: what a patch shows."""

    GLASS = 0
    STROMA = 1
    TUMOUR = 2
    LYMPHOID = 3
    FAT = 4
    EPITHELIUM = 5
    LUMEN = 6


class Architecture(IntEnum):
    """Arrangement of kinds: what a region shows."""

    NESTS = 1
    """Round nests of tumor in stroma, without lymphocytes."""
    CORDS = 2
    """Thin cords of tumor in stroma, without lymphocytes."""
    INFLAMED_NESTS = 3
    """Nests with a band of lymphocytes around each."""
    INFILTRATED_CORDS = 4
    """Cords with lymphocytes scattered throughout."""
    FOLLICLES = 5
    """Lymphoid follicles in stroma, away from any tumor."""
    FIBROUS = 6
    """Dense stroma with few cells."""
    ADIPOSE = 7
    """Fat with strands of stroma."""
    GLANDULAR = 8
    """Benign glands in stroma."""


class Fields(NamedTuple):
    """Random fields from which architectures are made, each uniformly distributed over 0 to 1 on the map of a slide."""

    blobs: Floats
    strands: Floats
    clumps: Floats
    detail: Floats


INFLAMED, EXCLUDED = "inflamed", "excluded"
CLASSES = (EXCLUDED, INFLAMED)
"""Immune phenotypes of a tumor: are its lymphocytes among the tumor cells, or kept away from them?"""

_SHARED = {
    Architecture.NESTS: 0.13,
    Architecture.CORDS: 0.13,
    Architecture.INFLAMED_NESTS: 0.13,
    Architecture.INFILTRATED_CORDS: 0.13,
    Architecture.FOLLICLES: 0.12,
    Architecture.FIBROUS: 0.12,
    Architecture.ADIPOSE: 0.12,
    Architecture.GLANDULAR: 0.12,
}
_TOWARDS_INFLAMED = {
    Architecture.NESTS: -0.10,
    Architecture.CORDS: -0.09,
    Architecture.INFLAMED_NESTS: 0.10,
    Architecture.INFILTRATED_CORDS: 0.09,
}
"""Mixture of each class. In the inflamed class, lymphocytes lie among the tumor cells. Both classes have the same
amount of tumor and follicles, and the inflamed one has slightly more lymphocytes in total; the difference is which
kinds occur together in a region."""


def class_mixture(label: str) -> npt.NDArray[np.float64]:
    """Return the mean fraction of each architecture in the slides of a class, in the order of `Architecture`."""
    sign = 1 if label == INFLAMED else -1
    return np.array([_SHARED[kind] + sign * _TOWARDS_INFLAMED.get(kind, 0.0) for kind in Architecture])


def arrange(architecture: npt.NDArray[np.uint8], fields: Fields) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Derive the kinds of tissue from architectures and random fields.

    Glands and fat cells are objects that are drawn later; here they are areas of stroma and fat.

    Args:
        architecture: (H, W) architecture of each map pixel, 0 on glass.
        fields: (H, W) each.

    Returns:
        (H, W) kinds, and (H, W) density of scattered lymphocytes in other tissue, 0 to 1.
    """
    kinds = np.where(architecture > 0, np.uint8(Kind.STROMA), np.uint8(Kind.GLASS))
    scattered = np.where(architecture > 0, np.float32(0.012), np.float32(0))

    def paint(here: Architecture, where: npt.NDArray[np.bool_], kind: Kind) -> None:
        kinds[(architecture == here) & where] = kind

    nest, cord = fields.blobs > 0.54, fields.strands > 0.54
    paint(Architecture.NESTS, nest, Kind.TUMOUR)
    paint(Architecture.INFLAMED_NESTS, ~nest & (fields.blobs + 0.10 * (fields.detail - 0.5) > 0.32), Kind.LYMPHOID)
    paint(Architecture.INFLAMED_NESTS, nest, Kind.TUMOUR)
    paint(Architecture.CORDS, cord, Kind.TUMOUR)
    paint(Architecture.INFILTRATED_CORDS, cord, Kind.TUMOUR)
    paint(Architecture.FOLLICLES, fields.clumps > 0.66, Kind.LYMPHOID)
    paint(Architecture.ADIPOSE, fields.strands < 0.86, Kind.FAT)
    scattered[architecture == Architecture.INFILTRATED_CORDS] = 0.34
    scattered[architecture == Architecture.INFLAMED_NESTS] = 0.05
    scattered[(architecture == Architecture.FOLLICLES) & (fields.clumps > 0.5)] = 0.10
    return kinds, scattered
