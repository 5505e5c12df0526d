"""Region embeddings stored next to their model, so that later evaluations do not recompute them."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.files import remove_leftovers
from slpd_toolkit.core.folder_lock import taking_turns
from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5, read_hdf5
from slpd_toolkit.core.hdf5_writer import write_hdf5
from slpd_toolkit.core.version import is_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.store.token_file import TokenFile

    Bag = npt.NDArray[np.float32]

SCHEMA, VERSION = "slpd-region-embeddings", 1
_LEFTOVER_AGE_S = 86400.0


class StoredBags:
    """Embeddings of one model at one precision and view. They are valid per slide while its token file is unchanged.

    Args:
        path: HDF5 file. Read if it exists and belongs to this model, otherwise replaced by the next `add`.
        digest: Digest of the model's weights.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self._digest = path, digest
        self._stamps, self._bags = _read(path, digest)

    def get(self, slide: TokenFile) -> Bag | None:
        """Return the (regions, E) embeddings of a slide, if they were computed from this token file."""
        slide_id = slide.meta.slide_id
        return self._bags[slide_id] if self._stamps.get(slide_id) == stamp(slide) else None

    def add(self, bags: Mapping[str, Bag], slides: Mapping[str, TokenFile]) -> None:
        """Add embeddings of slides and write the file, atomically.

        Raises:
            OSError: The folder cannot be written to.
        """
        self._bags.update(bags)
        self._stamps.update({slide_id: stamp(slides[slide_id]) for slide_id in bags})
        self.path.parent.mkdir(exist_ok=True)
        with taking_turns(self.path.parent) as locked:  # another evaluation of the same model may write it too
            remove_leftovers(self.path, min_age_s=0 if locked else _LEFTOVER_AGE_S)
            self._write(sorted(self._bags))

    def _write(self, ids: Sequence[str]) -> None:
        write_hdf5(
            self.path,
            {"schema": SCHEMA, "schema_version": VERSION, "model_sha256": self._digest},
            {
                "slide_ids": ids,
                "stamps": [self._stamps[slide_id] for slide_id in ids],
                "lengths": np.array([len(self._bags[slide_id]) for slide_id in ids], np.int64),
                "checksums": np.array([zlib.crc32(self._bags[slide_id].data) for slide_id in ids], np.uint32),
                "embeddings": np.concatenate([self._bags[slide_id] for slide_id in ids]),
            },
        )


def stamp(slide: TokenFile) -> str:
    """Identify a slide's tokens without reading them, by region coordinates and by size and time of the file."""
    status = slide.path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} {slide.meta.slide_fingerprint}".encode())
    digest.update(slide.coords.tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path, digest: str) -> tuple[dict[str, str], dict[str, Bag]]:
    """Read stamps and embeddings by slide; empty if the file is missing, damaged or belongs to another model."""
    try:
        contents = describe_hdf5(path)
        schema, version, model = map(contents.attributes.get, ("schema", "schema_version", "model_sha256"))
        if (schema, model) != (SCHEMA, digest) or not is_version(version, {VERSION}):
            return {}, {}
        arrays = {name: read_hdf5(path, name) for name in contents.datasets}
        ids, lengths = arrays["slide_ids"].tolist(), arrays["lengths"]
        bags = np.split(arrays["embeddings"].astype(np.float32, copy=False), np.cumsum(lengths)[:-1])
        checksums = arrays.get("checksums", ())  # missing in files written before version 0.2
        damaged = any(zlib.crc32(bag.data) != checksum for bag, checksum in zip(bags, checksums, strict=False))
        if damaged or [len(bag) for bag in bags] != lengths.tolist():
            return {}, {}
        return dict(zip(ids, arrays["stamps"].tolist(), strict=True)), dict(zip(ids, bags, strict=True))
    except (Hdf5Error, LookupError, TypeError, ValueError):
        return {}, {}
