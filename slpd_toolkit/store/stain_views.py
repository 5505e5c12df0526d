"""Stain views of a token cache: the same patches under other stains. Each view is a token cache in a sub-folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.stain_folders import count_stain_views, stain_folder
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor


def open_stain_views(store: TokenStore, count: int) -> list[TokenStore]:
    """Open the first stain views of a cache, with the slides of `store`, in the same order.

    Raises:
        UsageError: The cache has fewer views.
        CacheError: A view lacks slides, or was made of other regions.
    """
    if not count:
        return []
    if store.folder is None:
        raise UsageError("These token files are from several folders, which have no stain views.")
    found = count_stain_views(store.folder)
    if found < count:
        raise UsageError(
            f"{store.folder} has {found or 'no'} stain view{'s' * (found != 1)}, {count} needed.",
            hint=f"Run `slpd embed` again with --stain-views {count}: it reads the slides again and keeps the "
            "existing tokens. Imported caches have none, because they have no pixels.",
        )
    return [_open_view(store, stain_folder(store.folder, view)) for view in range(1, count + 1)]


class StainTokens(CohortTokens):
    """Regions of a cache as they are and under other stains.

    Args:
        store: The cache.
        tokens: All its regions, followed by those of each stain view, in the same order; closed with this object.
    """

    def __init__(self, store: TokenStore, tokens: Sequence[CohortTokens]) -> None:
        super().__init__(store)
        self.stains = tuple(tokens)

    def close(self) -> None:
        """Close all files."""
        for each in self.stains:
            each.close()

    def read(self, regions: npt.NDArray[np.int64], *, pin_memory: bool = False) -> Tensor:
        """Read regions under all stains.

        Returns:
            (B, S, grid, grid, D); the first stain is the slide's own.
        """
        found = [each.read(regions) for each in self.stains]
        shape = (len(regions), len(found), *found[0].shape[1:])
        stacked = torch.empty(shape, dtype=found[0].dtype, pin_memory=pin_memory)
        return torch.stack(found, dim=1, out=stacked)


class MeanOfStains(StainTokens):
    """Regions of a cache whose tokens are averaged over the stains."""

    def read(self, regions: npt.NDArray[np.int64], *, pin_memory: bool = False) -> Tensor:
        """Read regions; see `CohortTokens.read`."""
        mean = super().read(regions).float().mean(dim=1).half()
        return mean.pin_memory() if pin_memory else mean


def _open_view(store: TokenStore, folder: Path) -> TokenStore:
    """Open a view with the slides of a store.

    Raises:
        CacheError: Slides are missing, or have other regions.
    """
    view = TokenStore.open(folder)
    absent = sorted(set(store.slide_ids) - set(view.slide_ids))
    if absent:
        raise CacheError(
            f"{folder} lacks {len(absent):,} of {count(len(store.files), 'slide')}: {listed(absent)}.",
            hint="Run the same `slpd embed` command with --stain-views again: it adds what is missing.",
        )
    files = [view[slide_id] for slide_id in store.slide_ids]
    other = [
        one.meta.slide_id
        for one, own in zip(files, store.files, strict=True)
        if not np.array_equal(one.coords, own.coords) or one.meta.slide_fingerprint != own.meta.slide_fingerprint
    ]
    if other:
        raise CacheError(
            f"{folder} has different regions for {count(len(other), 'slide')}: {listed(other)}.",
            hint="Remove these files there, and run `slpd embed` with --stain-views again.",
        )
    return TokenStore(files, folder)
