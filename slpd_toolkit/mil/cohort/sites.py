"""The site of each slide: a column of the manifest, or the tissue source site in TCGA's barcodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from slpd_toolkit.mil.arrays import StrArray

_TCGA_BARCODE = r"^TCGA-(\w{2})-\w{4}"


def read_sites(table: pd.DataFrame, column: str) -> StrArray | None:
    """Return the site of each slide, empty where it is not known.

    Args:
        table: Manifest, indexed by slide ID.
        column: Column of the site. Without it, the site is the second part of the slide IDs if all of them are TCGA
            barcodes, such as A8 in TCGA-A8-A06P-01Z-00-DX1.

    Returns:
        (N,) sites; None if there is neither, or the column is empty.
    """
    if column in table:
        sites = table[column].to_numpy(np.str_)
        return sites if (sites != "").any() else None
    in_barcode = table.index.to_series().str.extract(_TCGA_BARCODE, expand=False)
    return None if in_barcode.isna().any() else in_barcode.to_numpy(np.str_)
