"""Reading vectors of slides or patients from CSV, npz or parquet files: ID -> vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.core.archives import read_npz
from slpd_toolkit.core.cells import csv_hint
from slpd_toolkit.core.csv_tables import read_number_table
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import require_regular
from slpd_toolkit.core.text import count

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import numpy.typing as npt

    Vectors = dict[str, npt.NDArray[np.float32]]

_ID, _PATIENT, _VECTORS = "slide_id", "patient_id", "vectors"
_IDS = (_ID, "slide_ids", _PATIENT, "patient_ids")
_UNNAMED = "Unnamed: "
_NUMBERS = "biuf"
_NPZ = f"npz: {_ID} and {_VECTORS}, or one vector per slide."


def read_vectors(path: Path, *, no_features: Collection[str] = ()) -> Vectors:
    """Read a table of slide vectors.

    Args:
        path: .csv or .parquet with a column slide_id (or patient_id) and one numeric column per feature (a parquet
            file can have a single column of lists instead); or .npz with the arrays `slide_id` (S,) and `vectors`
            (S, D), or with one vector (D,) per slide, named by slide ID.
        no_features: Columns known not to be features, such as those of the targets.

    Raises:
        UsageError: The file is not such a table, a slide ID is duplicate or empty, a value is not finite, vectors
            differ in length, or a column contains row numbers or is one of `no_features`.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        slides, vectors = _read_npz(path)
    else:
        slides, vectors = _of_frame(path, _read_csv(path) if suffix == ".csv" else _read_parquet(path), no_features)
    if "" in slides:
        raise UsageError(f"{path}: row {slides.index('') + 1} of the vectors has no slide_id.", hint="Fill or drop it.")
    names, counts = np.unique(slides, return_counts=True)
    if (counts > 1).any():
        raise UsageError(
            f"{path}: duplicate slide_id {', '.join(names[counts > 1][:8])}.", hint="Keep one row per slide."
        )
    if not slides:
        raise UsageError(f"{path} has no slides.", hint="Write a row per slide.")
    if vectors.ndim != 2 or vectors.shape[0] != len(slides) or not vectors.size:
        raise UsageError(
            f"{path}: {count(len(slides), 'slide does', 'slides do')} not match vectors of shape {vectors.shape}.",
            hint=f"Expected shape: ({len(slides)}, features).",
        )
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are rejected
        features = vectors.astype(np.float32)
    if not np.isfinite(features).all():
        row = slides[int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])]
        raise UsageError(f"{path}: the vector of {row} contains NaN or infinity.", hint="Recompute or drop this slide.")
    return dict(zip(slides, features[:, None], strict=True))


def patient_column(path: Path) -> bool:
    """Return whether the vectors of a readable table are named by patient_id instead of slide_id."""
    if path.suffix.lower() == ".npz":
        return not {_ID, "slide_ids"} & (names := read_npz(path).keys()) and bool({_PATIENT, "patient_ids"} & names)
    table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    return _ID not in table and _PATIENT in table


def _read_csv(path: Path) -> pd.DataFrame:
    return read_number_table(path, (_ID, _PATIENT), ())


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        require_regular(path)
        table = pd.read_parquet(path, page_checksum_verification=True)
    except ImportError as error:
        raise UsageError(
            f"{path}: reading parquet needs pyarrow.", hint="pip install 'slpd-toolkit[parquet]'"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as parquet ({error}).") from error
    return table.reset_index() if table.index.name in (_ID, _PATIENT) else table


def _of_frame(
    path: Path, table: pd.DataFrame, no_features: Collection[str]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    if _ID not in table and _PATIENT in table:
        table = table.rename(columns={_PATIENT: _ID})
    if _ID not in table:
        found = ", ".join(map(str, table.columns[:8]))
        raise UsageError(
            f"{path} has no column {_ID}; found {found}.",
            hint=csv_hint(path) or "Rename the column with slide IDs.",
        )
    if table.empty:
        raise UsageError(f"{path} has no rows.", hint="Add one row per slide.")
    slides, features = [_text(name).strip() for name in table[_ID].fillna("")], table.drop(columns=_ID)
    names = [str(name) for name in features.columns]
    known = [name for name in names if name in no_features]
    if known:
        raise UsageError(
            f"{path}: column {', '.join(known)} belongs to the manifest, not to the features; heads would learn from "
            "it.",
            hint=f"Keep only {_ID} and the features.",
        )
    if any(name.startswith(_UNNAMED) for name in names):
        raise UsageError(
            f"{path}: a column has no name; it may contain the row numbers that pandas writes.",
            hint="Write the table with index=False.",
        )
    if features.shape[1] == 1 and pd.api.types.is_object_dtype(features.iloc[:, 0]):
        return slides, _stacked(path, features.iloc[:, 0].tolist())
    texts = [str(name) for name in features.columns if not pd.api.types.is_numeric_dtype(features[name])]
    if texts or not features.shape[1]:
        wrong = f"column {', '.join(texts[:8])} is not numeric" if texts else "has no features"
        raise UsageError(
            f"{path}: {wrong}.",
            hint=f"Expected: {_ID} and one numeric column per feature.",
        )
    return slides, features.to_numpy(np.float64)


def _read_npz(path: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as npz ({error}).", hint="Save arrays without objects.") from error
    ids = next((name for name in _IDS if name in arrays), None)
    paired = ids is not None and _VECTORS in arrays
    wrong = [name for name in ([_VECTORS] if paired else arrays) if arrays[name].dtype.kind not in _NUMBERS]
    if wrong:
        raise UsageError(f"{path}: {', '.join(wrong[:8])} is not numeric.", hint=_NPZ)
    if ids is not None and paired:
        if arrays[ids].ndim != 1:
            raise UsageError(f"{path}: {ids} has the shape {arrays[ids].shape}, expected (slides,).", hint=_NPZ)
        return [_text(name).strip() for name in arrays[ids].tolist()], np.asarray(arrays[_VECTORS], np.float64)
    return list(arrays), _stacked(path, list(arrays.values()))


def _text(name: object) -> str:
    """Return an ID as text; bytes that are not UTF-8 become lone surrogates."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _stacked(path: Path, vectors: list[object]) -> npt.NDArray[np.float64]:
    try:
        return np.stack([_flat(np.asarray(vector, np.float64)) for vector in vectors])
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: its vectors are not lists of numbers of equal length ({error}).",
            hint=_NPZ,
        ) from error


def _flat(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if vector.ndim == 0 or vector.size != vector.shape[-1]:
        raise ValueError(f"one has shape {vector.shape}")
    return vector.reshape(-1)
