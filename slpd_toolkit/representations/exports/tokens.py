"""Tokens of patches, as other tools read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.files import make_folder
from slpd_toolkit.core.text import count
from slpd_toolkit.foreign.formats import hipt, trident
from slpd_toolkit.representations.exports import squares
from slpd_toolkit.representations.sound_slides import without_damaged

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.store.token_file import TokenFile, TokenStore


STAGE = "export"


def write_tokens(store: TokenStore, to: str, out: Path, failures: list[Failure], *, one_file_per_region: bool) -> None:
    """Write the tokens of all slides, one or several files per slide.

    Args:
        store: The token cache.
        to: `hipt` or `trident`.
        out: Folder to write to.
        failures: Where damaged slides are listed, which are left out.
        one_file_per_region: Whether a file of `hipt` holds a region instead of a slide.

    Raises:
        CacheError: No token file can be read.
    """
    folder = out if to == "hipt" else out / trident.folder_name(store.meta.encoder)
    make_folder(folder)
    store = without_damaged(store, failures, STAGE)
    with console.progress("export", total=len(store.files), unit="slides") as progress:
        for slide in store.files:
            slide_id = slide.meta.slide_id
            if to == "trident":
                meta, path = slide.meta, folder / f"{slide_id}.h5"
                trident.write(path, slide_id, *patches_of(slide), squares.patches(meta), encoder=meta.encoder)
            elif one_file_per_region:
                hipt.write_regions(folder, slide_id, slide.tokens, slide.coords)
            else:
                hipt.write_slide(folder, slide_id, slide.tokens, slide.coords)
            progress.advance(1)
    if to == "hipt" and store.has_gaps:
        missing = sum(slide.missing_patches for slide in store.files)
        console.warn(
            f"{count(missing, 'patch has', 'patches have')} no token: HIPT's format cannot mark them, so they are "
            "written as zeros."
        )
    console.note(f"Wrote {count(len(store.files), 'slide')} to {folder}.")


def patches_of(slide: TokenFile) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Split the regions of a slide into patches.

    Returns:
        (N, D) tokens of the patches that have one, and (N, 2) x, y of their top-left corners, level-0 px.
    """
    grid = slide.meta.grid
    present = np.ones((len(slide), grid, grid), np.bool_) if slide.present is None else slide.present
    region, row, column = np.nonzero(present)
    side_l0 = slide.meta.region_l0 / grid
    within = np.round(np.stack([column, row], axis=1) * side_l0).astype(np.int64)
    return slide.tokens[region, row, column].astype(np.float32), slide.coords[region] + within
