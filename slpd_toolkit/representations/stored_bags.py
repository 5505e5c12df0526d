"""Region embeddings kept beside the model that made them, so that a second evaluation need not embed again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import h5py
import numpy as np

from slpd_toolkit.core.files import atomic_path, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.store.token_file import TokenFile

    Bag = npt.NDArray[np.float32]

SCHEMA, VERSION = "slpd-region-embeddings", 1
_DAMAGES = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError)


class StoredBags:
    """The embeddings of one model at one precision and view; each slide's holds as long as its token file is the same.

    Args:
        path: The HDF5 file; read if it is there and of this model, else replaced on the next `add`.
        digest: Of the model's weights.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self._digest = path, digest
        self._stamps, self._bags = _read(path, digest)

    def get(self, slide: TokenFile) -> Bag | None:
        """Give a slide's (regions, E) embeddings, if they are of this very token file."""
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
        remove_leftovers(self.path)
        ids = sorted(self._bags)
        with atomic_path(self.path) as partial, h5py.File(partial, "w", libver="v110") as file:
            file.attrs.update({"schema": SCHEMA, "schema_version": VERSION, "model_sha256": self._digest})
            file.create_dataset("slide_ids", data=ids, dtype=h5py.string_dtype())
            file.create_dataset("stamps", data=[self._stamps[slide_id] for slide_id in ids], dtype=h5py.string_dtype())
            file.create_dataset("lengths", data=np.array([len(self._bags[slide_id]) for slide_id in ids], np.int64))
            file.create_dataset("embeddings", data=np.concatenate([self._bags[slide_id] for slide_id in ids]))


def stamp(slide: TokenFile) -> str:
    """Tell a slide's tokens from others without reading them: where its regions lie, and its file's size and time."""
    status = slide.path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} {slide.meta.slide_fingerprint}".encode())
    digest.update(slide.coords.tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path, digest: str) -> tuple[dict[str, str], dict[str, Bag]]:
    """Stamps and embeddings by slide; nothing where the file is absent, damaged or of another model."""
    try:
        with h5py.File(path, "r") as file:
            about = (file.attrs["schema"], int(file.attrs["schema_version"]), file.attrs["model_sha256"])
            if about != (SCHEMA, VERSION, digest):
                return {}, {}
            ids, stamps = file["slide_ids"].asstr()[...], file["stamps"].asstr()[...]
            bags = np.split(file["embeddings"][...], np.cumsum(file["lengths"][...])[:-1])
        stored = dict(zip(ids, stamps, strict=True)), dict(zip(ids, bags, strict=True))
    except _DAMAGES:
        return {}, {}
    return stored
