"""prototypes.h5: the slide prototypes of a run, with all that a picture of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import atomic_path

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.objectives.slide_prototypes import PrototypeBank
    from slpd_toolkit.store.token_file import TokenStore

SCHEMA, VERSION = "slpd-prototypes", 1


@dataclass(frozen=True)
class PrototypeFile:
    """N slides with K prototypes of d numbers each, and the R regions of the whole cache.

    >>> prototypes = slpd.PrototypeFile.read("runs/slpd/prototypes.h5")
    >>> prototypes.prototypes.shape, prototypes.neighbours.shape
    ((10, 2, 16), (10, 1))
    """

    slide_ids: npt.NDArray[np.object_]
    """(N,) the slides that have prototypes."""
    prototypes: npt.NDArray[np.float32]
    """(N, K, d) unit vectors in bottleneck space."""
    neighbours: npt.NDArray[np.int64]
    """(N, r) most similar other slides, best first, as rows of `slide_ids`."""
    similarity: npt.NDArray[np.float32]
    """(N, r) mean cosine of the matched prototypes, at most 1."""
    counterpart: npt.NDArray[np.int64]
    """(N, K, r) the prototype of each neighbour that corresponds to each own one."""
    region_row: npt.NDArray[np.int64]
    """(R,) row in `slide_ids` of the region's slide, -1 where it has no prototypes."""
    region_cluster: npt.NDArray[np.int64]
    """(R,) the region's prototype, -1 where it has none."""
    region_cosine: npt.NDArray[np.float32]
    """(R,) cosine of the region with its prototype, NaN where it has none."""
    region_coords: npt.NDArray[np.int64]
    """(R, 2) x, y of the region's top-left corner, level-0 px."""
    region_l0: npt.NDArray[np.int64]
    """(N,) side of a region, level-0 px, on each slide."""
    located: npt.NDArray[np.bool_]
    """(N,) whether the slide's coordinates are those of its own level 0: what was imported may not know it."""
    step: int
    """Steps that the teacher had trained for."""

    def write(self, path: Path) -> None:
        """Write atomically."""
        with atomic_path(path) as partial, h5py.File(partial, "w", libver="v110") as file:
            file.attrs.update({"schema": SCHEMA, "schema_version": VERSION, "step": self.step})
            file.create_dataset("slide_ids", data=self.slide_ids, dtype=h5py.string_dtype())
            for name in (*ARRAYS, LOCATED):
                file.create_dataset(name, data=getattr(self, name))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PrototypeFile:
        """Read prototypes.h5 of a run.

        Raises:
            CacheError: It is missing, unreadable, or of another version.
        """
        try:
            with h5py.File(path, "r") as file:
                found = (file.attrs.get("schema"), file.attrs.get("schema_version"))
                if found != (SCHEMA, VERSION):
                    raise CacheError(f"{path}: schema {found}, needed {(SCHEMA, VERSION)}.")
                arrays = {name: file[name][...] for name in ARRAYS}
                slide_ids = file["slide_ids"].asstr()[...]
                located = file[LOCATED][...] if LOCATED in file else np.ones(len(slide_ids), np.bool_)
                return cls(slide_ids=slide_ids, located=located, step=int(file.attrs["step"]), **arrays)
        except (OSError, KeyError, RuntimeError) as error:
            raise CacheError(
                f"{path} cannot be read as a prototype file ({error}).",
                hint="`slpd pretrain` writes it at the end of each epoch that has prototypes.",
            ) from error


ARRAYS = (
    "prototypes",
    "neighbours",
    "similarity",
    "counterpart",
    "region_row",
    "region_cluster",
    "region_cosine",
    "region_coords",
    "region_l0",
)
LOCATED = "located"
"""Files of before it was written hold slides that are."""


def describe_prototypes(store: TokenStore, bank: PrototypeBank, bottleneck: Tensor, step: int) -> PrototypeFile:
    """Put a bank together with where its slides and regions are.

    Args:
        store: The cache that the bank was made from.
        bank: Prototypes and neighbours.
        bottleneck: (R, d) unit vectors of all regions.
        step: Steps that the teacher had trained for.
    """
    kept = bank.row >= 0
    cosine = bottleneck.new_full((len(bottleneck),), float("nan"))
    cosine[kept] = (bottleneck[kept] * bank.prototypes[bank.row[kept], bank.cluster[kept]]).sum(-1)
    slides = [store.files[index] for index in bank.slides.tolist()]
    return PrototypeFile(
        slide_ids=np.array([slide.meta.slide_id for slide in slides], object),
        prototypes=bank.prototypes.cpu().numpy(),
        neighbours=bank.neighbours.cpu().numpy(),
        similarity=(bank.similarity / bank.prototypes.shape[1]).float().cpu().numpy(),
        counterpart=bank.counterpart.cpu().numpy(),
        region_row=bank.row.cpu().numpy(),
        region_cluster=bank.cluster.cpu().numpy(),
        region_cosine=cosine.cpu().numpy(),
        region_coords=np.concatenate([slide.coords for slide in store.files]),
        region_l0=np.array([slide.meta.region_l0 for slide in slides], np.int64),
        located=np.array([slide.meta.located for slide in slides], np.bool_),
        step=step,
    )
