"""prototypes.h5: the slide prototypes of a run, with everything needed to visualize them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5, digest_of, read_hdf5
from slpd_toolkit.core.hdf5_writer import write_hdf5
from slpd_toolkit.core.version import is_version

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Any

    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.objectives.slide_prototypes import PrototypeBank
    from slpd_toolkit.store.token_file import TokenStore

SCHEMA, VERSION = "slpd-prototypes", 1


@dataclass(frozen=True)
class PrototypeFile:
    """N slides with K prototypes of dimension d each, and the R regions of the whole cache.

    >>> prototypes = slpd.PrototypeFile.read("runs/slpd/prototypes.h5")
    >>> prototypes.prototypes.shape, prototypes.neighbours.shape
    ((10, 2, 16), (10, 1))
    """

    slide_ids: npt.NDArray[np.object_]
    """(N,) slides that have prototypes."""
    prototypes: npt.NDArray[np.float32]
    """(N, K, d) unit vectors in bottleneck space."""
    neighbours: npt.NDArray[np.int64]
    """(N, r) most similar other slides, most similar first, as rows of `slide_ids`."""
    similarity: npt.NDArray[np.float32]
    """(N, r) mean cosine of the matched prototypes, at most 1."""
    counterpart: npt.NDArray[np.int64]
    """(N, K, r) prototype of each neighbor that corresponds to each of the slide's own."""
    region_row: npt.NDArray[np.int64]
    """(R,) row in `slide_ids` of the region's slide; -1 if it has no prototypes."""
    region_cluster: npt.NDArray[np.int64]
    """(R,) index of the region's prototype; -1 if it has none."""
    region_cosine: npt.NDArray[np.float32]
    """(R,) cosine similarity of the region and its prototype; NaN if it has none."""
    region_coords: npt.NDArray[np.int64]
    """(R, 2) x, y of the region's top-left corner, level-0 px."""
    region_l0: npt.NDArray[np.int64]
    """(N,) side length of a region on each slide, level-0 px."""
    located: npt.NDArray[np.bool_]
    """(N,) whether the coordinates are in the slide's own level-0 frame, which imported features may not know."""
    step: int
    """Number of training steps of the teacher."""

    def write(self, path: Path) -> None:
        """Write atomically.

        Raises:
            OSError: The file cannot be written (disk full, quota).
        """
        arrays = {name: getattr(self, name) for name in ("slide_ids", *ARRAYS, LOCATED)}
        attributes = {"schema": SCHEMA, "schema_version": VERSION, "step": self.step, "digest": digest_of(arrays)}
        write_hdf5(path, attributes, arrays)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PrototypeFile:
        """Read prototypes.h5 of a run.

        Raises:
            CacheError: The file is missing, unreadable, or of another version.
        """
        path = Path(path)
        try:
            contents = describe_hdf5(path)
            found = (contents.attributes.get("schema"), contents.attributes.get("schema_version"))
            if found[0] != SCHEMA or not is_version(found[1], {VERSION}):
                raise CacheError(f"{path}: got schema {found}, expected {(SCHEMA, VERSION)}.")
            arrays = {name: read_hdf5(path, name) for name in ("slide_ids", *ARRAYS)}
            located = read_hdf5(path, LOCATED) if LOCATED in contents.datasets else np.ones(len(arrays["slide_ids"]))
            step = int(contents.attributes["step"])
        except Hdf5Error as error:
            hint = _WRITTEN_BY if error.kind in {"missing", "damaged", "not HDF5", "cut short"} else error.hint
            raise CacheError(f"{path} cannot be read as a prototype file ({error.reason}).", hint=hint) from error
        except (LookupError, ValueError, TypeError) as error:
            raise CacheError(f"{path} cannot be read as a prototype file ({error}).", hint=_WRITTEN_BY) from error
        _require_fit(path, arrays)
        digest = contents.attributes.get("digest")  # missing in files of earlier versions
        if digest is not None and digest != digest_of(arrays | {LOCATED: located}):
            raise CacheError(f"{path} is damaged: its contents do not match their digest.", hint=_WRITTEN_BY)
        return cls(**arrays, located=located.astype(np.bool_), step=step)


_WRITTEN_BY = "`slpd pretrain` writes it at the end of each epoch that has prototypes."

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
"""In files written before this array existed, all slides are located."""


def _require_fit(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check the shapes and types of the arrays against the file format, and that indices are in range.

    Raises:
        CacheError: A check fails.
    """
    slides, regions = len(arrays["slide_ids"]), len(arrays["region_row"])
    prototypes, neighbours = arrays["prototypes"], arrays["neighbours"]
    clusters, width = prototypes.shape[1:] if prototypes.ndim == 3 else (-1, -1)
    near = neighbours.shape[-1] if neighbours.ndim else -1
    shapes = {
        "slide_ids": ((slides,), "O"),
        "prototypes": ((slides, clusters, width), "f"),
        "neighbours": ((slides, near), "iu"),
        "similarity": ((slides, near), "f"),
        "counterpart": ((slides, clusters, near), "iu"),
        "region_row": ((regions,), "iu"),
        "region_cluster": ((regions,), "iu"),
        "region_cosine": ((regions,), "f"),
        "region_coords": ((regions, 2), "iu"),
        "region_l0": ((slides,), "iu"),
    }
    wrong = [
        f"{name} {arrays[name].shape} {arrays[name].dtype}"
        for name, (shape, kinds) in shapes.items()
        if arrays[name].shape != shape or arrays[name].dtype.kind not in kinds
    ]
    if wrong:
        raise CacheError(f"{path}: arrays do not match: {', '.join(wrong)}.", hint=_WRITTEN_BY)
    limits = {
        "neighbours": (0, slides),
        "counterpart": (0, clusters),
        "region_row": (-1, slides),
        "region_cluster": (-1, clusters),
    }
    outside = [
        name
        for name, (least, end) in limits.items()
        if arrays[name].size and not least <= arrays[name].min() <= arrays[name].max() < end
    ]
    if outside or not np.isfinite(prototypes).all():
        raise CacheError(f"{path}: {', '.join(outside) or 'prototypes'} contains invalid values.", hint=_WRITTEN_BY)


def describe_prototypes(store: TokenStore, bank: PrototypeBank, bottleneck: Tensor, step: int) -> PrototypeFile:
    """Combine a bank with the locations of its slides and regions.

    Args:
        store: The cache from which the bank was built.
        bank: Prototypes and neighbors.
        bottleneck: (R, d) unit vectors of all regions.
        step: Number of training steps of the teacher.
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
