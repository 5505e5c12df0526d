"""A part of a token cache: the slides of a manifest, or those of its rows that meet some conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.manifest import read_table
from slpd_toolkit.core.row_filter import select_rows
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def selected_ids(manifest: Path, where: Sequence[str]) -> set[str]:
    """Return the IDs of the slides that a manifest selects.

    Raises:
        UsageError: The manifest cannot be read, or a condition does not fit it.
    """
    return set(select_rows(read_table(manifest, required=("slide_id",)), where, manifest)["slide_id"])


def select_slides(store: TokenStore, manifest: Path | None, where: Sequence[str]) -> TokenStore:
    """Return a store of the slides that a manifest selects, in the order of the cache; without a manifest, all.

    Selected slides without a token file are named in a warning.

    Raises:
        UsageError: The manifest cannot be read, a condition does not fit it, or no selected slide is in the cache.
    """
    if manifest is None:
        return store
    chosen = select_rows(read_table(manifest, required=("slide_id",)), where, manifest)["slide_id"].tolist()
    wanted = set(chosen)
    files = [file for file in store.files if file.meta.slide_id in wanted]
    if not files:
        raise UsageError(
            f"None of the selected slides ({len(wanted):,}) of {manifest} is in the cache: the manifest has "
            f"{chosen[0]}, the cache has {store.slide_ids[0]}.",
            hint="Compare the slide IDs: they must be spelled identically.",
        )
    absent = sorted(wanted - set(store.slide_ids))
    if absent:
        console.warn(
            f"{len(absent):,} of {count(len(wanted), 'selected slide')} {agree(len(absent), 'is', 'are')} not in the "
            f"cache: {listed(absent)}."
        )
    return TokenStore(files, store.folder)
