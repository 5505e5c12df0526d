"""Tokens relative to the mean token of their slide: what slides differ in as a whole, such as stain, is removed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.store.cohort_tokens import CohortTokens

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.store.token_file import TokenStore


class CenteredTokens(CohortTokens):
    """`CohortTokens` from which the mean token of each slide is subtracted.

    The mean is `CohortTokens.mean_token`. It depends on no other slide, so that nothing leaks between training and test
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
            self.mean_token(slide)
        means = torch.from_numpy(self._means[slides])
        return tokens.copy_(tokens.float() - means[:, None, None])

    def mean_token(self, slide: int) -> npt.NDArray[np.float32]:
        """Return the mean token that is subtracted from those of a slide, (D,), by its number in the store."""
        with self._locks[slide]:
            if not self._known[slide]:
                self._means[slide] = self._raw.mean_token(slide)
                self._known[slide] = True
        mean: npt.NDArray[np.float32] = self._means[slide]
        return mean
