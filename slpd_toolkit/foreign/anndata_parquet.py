"""Tables of embeddings as AnnData (.h5ad) and Parquet. Each requires an optional dependency."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING

import pandas as pd

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from anndata import AnnData


_MODULES = {"anndata": "anndata", "parquet": "pyarrow"}
"""Module required for each kind of table, installed by the extra of the same name."""


def require_extra(kind: str) -> None:
    """Check that the module required for `kind` is installed, before embeddings are computed.

    Raises:
        UsageError: It is not.
    """
    module = _MODULES.get(kind)
    if module is None:
        return
    try:
        import_module(module)
    except ImportError as error:
        raise UsageError(f"--to {kind} needs {module}.", hint=f"pip install 'slpd-toolkit[{kind}]'") from error


def make_anndata(
    embeddings: npt.NDArray[np.float32],
    about_rows: pd.DataFrame,
    centres_l0: npt.NDArray[np.float64] | None,
    provenance: Mapping[str, object],
    further: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> AnnData:
    """Convert embeddings to AnnData.

    Args:
        embeddings: (N, E): X.
        about_rows: N rows with unique names: obs.
        centres_l0: (N, 2) x and y of the center of each row, level-0 px: obsm["spatial"].
        provenance: uns["slpd"], plain values.
        further: Other arrays with N rows, by their name in obsm.

    Raises:
        UsageError: anndata is not installed.
    """
    require_extra("anndata")
    from anndata import AnnData

    features = pd.DataFrame(index=_names(embeddings))
    rows, features = _plain_strings(about_rows), _plain_strings(features)
    table = AnnData(X=embeddings, obs=rows, var=features, uns={"slpd": dict(provenance)})
    if centres_l0 is not None:
        table.obsm["spatial"] = centres_l0
    for name, values in (further or {}).items():
        table.obsm[name] = values
    return table


def write_h5ad(
    path: Path,
    embeddings: npt.NDArray[np.float32],
    about_rows: pd.DataFrame,
    centres_l0: npt.NDArray[np.float64] | None,
    provenance: Mapping[str, object],
    further: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> None:
    """Write embeddings as AnnData, atomically; see `make_anndata`."""
    import h5py
    from anndata.io import write_elem

    table = make_anndata(embeddings, about_rows, centres_l0, provenance, further)
    table.strings_to_categoricals()
    with h5py.File("in memory", "w", driver="core", backing_store=False) as file:  # HDF5 crashes on a full disk
        write_elem(file, "/", table, dataset_kwargs={"compression": "gzip", "compression_opts": 0})  # adds checksums
        file.flush()
        content = file.id.get_file_image()
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_parquet(
    path: Path,
    embeddings: npt.NDArray[np.float32],
    about_rows: pd.DataFrame,
    provenance: Mapping[str, object],
    fitted: bytes = b"",
) -> None:
    """Write embeddings as Parquet, atomically: the columns of `about_rows`, then one per feature.

    Args:
        path: The file.
        embeddings: (N, E).
        about_rows: N rows.
        provenance: Plain values, stored as JSON in the schema metadata under `slpd`.
        fitted: Contents of an .npz file, stored in the schema metadata under `slpd_fitted`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {str(name): about_rows[name].to_numpy() for name in about_rows}
    columns |= dict(zip(_names(embeddings), embeddings.T, strict=True))
    metadata: dict[str, str | bytes] = {"slpd": json.dumps(dict(provenance))}
    if fitted:
        metadata["slpd_fitted"] = fitted
    table = pa.table(columns).replace_schema_metadata(metadata)
    with atomic_path(path) as partial:
        parquet.write_table(table, partial, write_page_checksum=True)


def _plain_strings(table: pd.DataFrame) -> pd.DataFrame:
    """Convert names and texts to Python strings, because AnnData cannot write the Arrow strings of pandas 3.

    Texts become categories of Python strings; otherwise AnnData would create categories of Arrow strings.
    """
    texts = [str(name) for name in table if pd.api.types.is_string_dtype(table[name])]
    plain = table.assign(**{name: _categories(table[name]) for name in texts})
    plain.index = plain.index.astype(object)
    return plain


def _categories(texts: pd.Series) -> pd.Categorical:
    codes, found = pd.factorize(texts.to_numpy(dtype=object), sort=True)
    return pd.Categorical.from_codes(codes, categories=pd.Index(found, dtype=object))


def _names(embeddings: npt.NDArray[np.float32]) -> list[str]:
    return [f"e{index}" for index in range(embeddings.shape[1])]
