"""The HDF5 structure of a token file, created in memory, with space for the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.hdf5_writer import Layout, describe_layout, fixed_length_attributes
from slpd_toolkit.store import schema

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.store.schema import TokenMeta


def lay_out(
    meta: TokenMeta,
    coords: npt.NDArray[np.int64],
    tissue: npt.NDArray[np.floating],
    present: npt.NDArray[np.bool_] | None = None,
    checksums: npt.NDArray[np.uint32] | None = None,
) -> Layout:
    """Return the structure of a token file.

    Args:
        meta: Attributes of the file.
        coords: (R, 2) x and y of the top-left corner of each region, level-0 px.
        tissue: (R, grid, grid) tissue fraction of each patch.
        present: (R, grid, grid) bool, patches that have a token; None if all have.
        checksums: (R,) CRC-32 of the tokens of each region; None while they are unknown. The structure is then the
            same, except for the bytes of the checksums and of the digest.
    """
    coords, tissue = coords.astype(schema.COORD_DTYPE), tissue.astype(schema.TISSUE_DTYPE)
    checksums = np.zeros(len(coords), schema.CHECKSUM_DTYPE) if checksums is None else checksums
    layout = Layout()
    with describe_layout(layout) as made:
        attributes = {**meta.to_attributes(), schema.DIGEST: schema.digest(meta, coords, tissue, present, checksums)}
        file = made.file
        file.attrs.update(fixed_length_attributes(attributes))
        file.create_dataset(schema.COORDS, data=coords)
        file.create_dataset(schema.TISSUE, data=tissue)
        file.create_dataset(schema.CHECKSUMS, data=checksums)
        units = {
            schema.COORDS: "x, y of the region's top-left corner, level-0 px",
            schema.TISSUE: "tissue fraction of each patch, 0-1",
            schema.CHECKSUMS: "CRC-32 of the region's tokens",
        }
        if present is not None:
            file.create_dataset(schema.PRESENT, data=present, dtype=schema.PRESENT_DTYPE)
            units[schema.PRESENT] = "whether the patch has a token; the others are zeros"
        for name, unit in units.items():
            file[name].attrs.update(fixed_length_attributes({"unit": unit}))
        shape = (len(coords), meta.grid, meta.grid, meta.embedding_dim)
        tokens = made.reserve(schema.TOKENS, shape, schema.TOKEN_DTYPE)
        tokens.attrs.update(fixed_length_attributes({"layout": "region, row, column, feature"}))
    return layout
