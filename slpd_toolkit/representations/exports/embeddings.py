"""Embeddings of regions and slides, as other tools read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from slpd_toolkit.core import console
from slpd_toolkit.core.files import make_folder
from slpd_toolkit.core.text import count
from slpd_toolkit.foreign.anndata_parquet import write_h5ad, write_parquet
from slpd_toolkit.foreign.formats import trident
from slpd_toolkit.representations.exports import squares

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.representations.region_embeddings import RegionEmbeddings
    from slpd_toolkit.store.token_file import TokenStore


def write_trident(store: TokenStore, embeddings: RegionEmbeddings, out: Path) -> None:
    """Write one file per slide with its region embeddings, in TRIDENT's layout.

    Args:
        store: The token cache, which has the geometry.
        embeddings: The region embeddings.
        out: Folder in which the folder of features is created.
    """
    folder = out / trident.folder_name(f"slpd-{embeddings.model_name}")
    make_folder(folder)
    for slide_id in embeddings.slide_ids:
        file = store[slide_id]
        meta, path = file.meta, folder / f"{slide_id}.h5"
        trident.write(path, slide_id, embeddings[slide_id], file.coords, squares.regions(meta), encoder=meta.encoder)
    console.note(f"Wrote {count(len(embeddings.slide_ids), 'slide')} to {folder}.")


def write_table(embeddings: RegionEmbeddings, to: str, per: Literal["auto", "slide", "region"], out: Path) -> None:
    """Write one file with a row per region or per slide.

    Args:
        embeddings: The region embeddings.
        to: `anndata` or `parquet`.
        per: What a row is; `auto`: regions in `anndata`, slides in `parquet`.
        out: File to write.
    """
    per_region = per == "region" or (per == "auto" and to == "anndata")
    values, about = (embeddings.values, embeddings.regions) if per_region else _per_slide(embeddings)
    if to == "parquet":
        write_parquet(out, values, about, embeddings.provenance)
    elif per_region:
        about = about.set_axis(embeddings.row_names)
        write_h5ad(out, values, about, embeddings.centres_l0, embeddings.provenance)
    else:
        about = about.assign(regions=embeddings.lengths).set_axis(pd.Index(embeddings.slide_ids))
        write_h5ad(out, values, about, None, embeddings.provenance)
    console.note(f"Wrote {len(values):,} {'regions' if per_region else 'slides'} to {out}.")


def _per_slide(embeddings: RegionEmbeddings) -> tuple[npt.NDArray[np.float32], pd.DataFrame]:
    """Mean embeddings and slide ids. No other column: mil-eval reads every number as a feature."""
    return embeddings.means, pd.DataFrame({"slide_id": embeddings.slide_ids})
