"""Tokens relative to the mean token of their slide: what slides differ in as a whole, such as stain, is removed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.streaming import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.store.token_file import TokenStore


class CenteredTokens(CohortTokens):
    """`CohortTokens` from which the mean token of each slide is subtracted.

    The mean is over the tissue patches of all regions of the slide (those with a tissue fraction above 0; without any,
    all patches that have a token). It depends on no other slide, so that nothing leaks between training and test
    slides. It is computed when a region of the slide is first read, which reads the whole slide once more.

    Args:
        store: The cache.
        tokens: All its regions; closed with this object.
    """

    def __init__(self, store: TokenStore, tokens: CohortTokens) -> None:
        super().__init__(store)
        self._raw = tokens
        self._means = np.empty((len(store.files), store.embedding_dim), np.float32)
        self._locks = [threading.Lock() for _ in store.files]
        self._known = np.zeros(len(store.files), bool)

    def close(self) -> None:
        """Close all files."""
        self._raw.close()

    def read(self, regions: npt.NDArray[np.int64], *, pin_memory: bool = False) -> Tensor:
        """Read regions; see `CohortTokens.read`. Values of patches without a token are meaningless, as there."""
        tokens = self._raw.read(regions, pin_memory=pin_memory)
        slides = self.slide_of_region[regions]
        for slide in np.unique(slides).tolist():
            self._find_mean(slide)
        means = torch.from_numpy(self._means[slides])
        return tokens.copy_(tokens.float() - means[:, None, None])

    def _find_mean(self, slide: int) -> None:
        with self._locks[slide]:
            if self._known[slide]:
                return
            tissue = self._store.files[slide].tissue > 0
            present = self._store.files[slide].present
            counted = tissue if tissue.any() else np.ones_like(tissue) if present is None else present
            first = int(self._starts[slide])
            total = np.zeros(self._store.embedding_dim)
            for part in in_parts(np.arange(first, first + len(counted))):
                tokens = self._raw.read(part).numpy()
                total += tokens[counted[part - first]].sum(axis=0, dtype=np.float64)
            self._means[slide] = total / max(1, counted.sum())
            self._known[slide] = True
