"""Vectors of the regions of single slides: stored embeddings of a region ViT, or mean tokens."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5
from slpd_toolkit.representations.opening import mean_of_tissue
from slpd_toolkit.representations.stored_bags import SCHEMA, StoredBags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.store.token_file import TokenFile

    Vectors = npt.NDArray[np.float32]

STORED = "region_embeddings"
_REGIONS = 64


class RegionVectors:
    """Vectors by which regions are compared: embeddings that a run has stored, otherwise mean tokens.

    Args:
        runs: Run folders, the preferred one first.
        files: Token files by slide ID.
    """

    def __init__(self, runs: Sequence[Path], files: Mapping[str, TokenFile]) -> None:
        self._runs, self._files = runs, files

    @property
    def about(self) -> str:
        """Description of the vectors."""
        return "mean tokens" if self._stored is None else f"region embeddings of {self._stored[0]}"

    def __call__(self, slide_id: str) -> Vectors | None:
        """Return the (R, D) vectors of a slide; None if it has none.

        Raises:
            CacheError: The token file cannot be read.
        """
        file = self._files.get(slide_id)
        if file is None:
            return None
        return mean_tokens(file) if self._stored is None else self._stored[1].get(file)

    @cached_property
    def _stored(self) -> tuple[str, StoredBags] | None:
        """Read stored embeddings when they are first needed: of the first run that has some."""
        found = ((run.name, _complete_stored(run, self._files)) for run in self._runs)
        return next(((name, stored) for name, stored in found if stored is not None), None)


def mean_tokens(file: TokenFile) -> Vectors:
    """Compute the mean of the tissue tokens of each region, (R, D).

    Raises:
        CacheError: The file cannot be read.
    """
    parts = []
    for first in range(0, len(file), _REGIONS):
        part = slice(first, first + _REGIONS)
        present = None if file.present is None else torch.from_numpy(file.present[part])
        tokens, tissue = torch.from_numpy(file.tokens[part]).float(), torch.from_numpy(file.tissue[part]).float()
        parts.append(mean_of_tissue(tokens, tissue, present))
    found: Vectors = torch.cat(parts).numpy() if parts else torch.empty(0, file.meta.embedding_dim).numpy()
    return found


def _complete_stored(run: Path, files: Mapping[str, TokenFile]) -> StoredBags | None:
    """Return stored embeddings of a run that cover all slides, because vectors of other models cannot be compared."""
    wanted = [file for file in files.values() if len(file)]
    for path in sorted((run / STORED).glob("*.h5")):
        try:
            attributes = describe_hdf5(path).attributes
        except Hdf5Error:
            continue
        if attributes.get("schema") != SCHEMA:
            continue
        stored = StoredBags(path, str(attributes.get("model_sha256")))
        if wanted and all(stored.get(file) is not None for file in wanted):
            return stored
    return None
