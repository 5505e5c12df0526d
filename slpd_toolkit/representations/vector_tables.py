"""Vectors of whole slides from anywhere: CSV, npz or parquet to slide_id -> vector."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Vectors = dict[str, npt.NDArray[np.float32]]

_ID, _IDS, _VECTORS = "slide_id", ("slide_id", "slide_ids"), "vectors"


def read_vectors(path: Path) -> Vectors:
    """Read a table of slide vectors.

    Args:
        path: .csv or .parquet with a column slide_id and numeric columns, one a feature (a parquet file may have one
            column of lists instead); or .npz with the arrays `slide_id` (S,) and `vectors` (S, D), or one vector (D,)
            a slide under its id.

    Raises:
        UsageError: It is no such table, a slide stands there twice, a value is no finite number, or widths differ.
    """
    slides, vectors = {".csv": _read_csv, ".npz": _read_npz, ".parquet": _read_parquet}[path.suffix.lower()](path)
    names, counts = np.unique(slides, return_counts=True)
    if (counts > 1).any():
        raise UsageError(
            f"{path}: {', '.join(names[counts > 1][:8])} stands there twice.", hint="Keep one row a slide."
        )
    if vectors.ndim != 2 or vectors.shape[0] != len(slides) or not vectors.size:
        raise UsageError(
            f"{path}: {len(slides)} slides and vectors of shape {vectors.shape} do not fit.",
            hint=f"Needed: ({len(slides)}, features).",
        )
    if not np.isfinite(vectors).all():
        row = slides[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise UsageError(f"{path}: the vector of {row} holds NaN or infinity.", hint="Redo or leave out that slide.")
    return dict(zip(slides, vectors.astype(np.float32)[:, None], strict=True))


def _read_csv(path: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    try:
        table = pd.read_csv(path, dtype={_ID: str}, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}).") from error
    return _of_frame(path, table)


def _read_parquet(path: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise UsageError(
            f"{path}: reading parquet needs pyarrow.", hint="pip install 'slpd-toolkit[parquet]'"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as parquet ({error}).") from error
    return _of_frame(path, table.reset_index() if table.index.name == _ID else table)


def _of_frame(path: Path, table: pd.DataFrame) -> tuple[list[str], npt.NDArray[np.float64]]:
    if _ID not in table:
        found = ", ".join(map(str, table.columns[:8]))
        raise UsageError(f"{path}: has no column {_ID}, but {found}.", hint="Name the column of slide ids so.")
    if table.empty:
        raise UsageError(f"{path}: has no row.", hint="Give one row a slide.")
    slides, features = [str(name).strip() for name in table[_ID]], table.drop(columns=_ID)
    if features.shape[1] == 1 and pd.api.types.is_object_dtype(features.iloc[:, 0]):
        return slides, _stacked(path, features.iloc[:, 0].tolist())
    texts = [str(name) for name in features.columns if not pd.api.types.is_numeric_dtype(features[name])]
    if texts or not features.shape[1]:
        wrong = f"column {', '.join(texts[:8])} holds no numbers" if texts else "has no feature"
        raise UsageError(
            f"{path}: {wrong}.",
            hint=f"Needed: {_ID}, and one numeric column a feature.",
        )
    return slides, features.to_numpy(np.float64)


def _read_npz(path: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(f"{path}: cannot be read as npz ({error}).", hint="Save plain arrays, no objects.") from error
    ids = next((name for name in _IDS if name in arrays), None)
    if ids and _VECTORS in arrays:
        return [str(name) for name in arrays[ids]], np.asarray(arrays[_VECTORS], np.float64)
    return list(arrays), _stacked(path, list(arrays.values()))


def _stacked(path: Path, vectors: list[object]) -> npt.NDArray[np.float64]:
    try:
        return np.stack([_flat(np.asarray(vector, np.float64)) for vector in vectors])
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: its vectors are no lists of numbers of one length ({error}).",
            hint=f"npz: {_ID} and {_VECTORS}, or one vector a slide.",
        ) from error


def _flat(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if vector.ndim == 0 or vector.size != vector.shape[-1]:
        raise ValueError(f"one has shape {vector.shape}")
    return vector.reshape(-1)
