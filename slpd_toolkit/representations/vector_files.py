"""Files of `slpd represent`: Parquet, AnnData, and a folder of HDF5 files like TRIDENT's slide features."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from slpd_toolkit.core.archives import read_npz
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import atomic_path, is_safe_name, make_folder, read_json, write_text
from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5, digest_of, read_hdf5
from slpd_toolkit.core.hdf5_writer import Layout, describe_layout, write_layout
from slpd_toolkit.core.result_folders import require_results_of
from slpd_toolkit.core.version import __version__
from slpd_toolkit.foreign.anndata_parquet import write_h5ad, write_parquet
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.representations.slide_vectors import SlideVectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

ABOUT, FITTED, DIGEST = "about.json", "fitted.npz", "digest"
_PROTOTYPE, _WEIGHT = "prototype", "weight"
_PER = {"slide": "slide_id", "patient": "patient_id"}
_WRITTEN_BY = "`slpd represent` writes such files; run it again."


def write_vectors(vectors: SlideVectors, out: Path) -> None:
    """Write vectors in the format that the suffix of `out` names: .parquet, .h5ad, or none for a folder.

    Raises:
        UsageError: `out` is a folder, and the name of a slide or patient cannot be that of a file.
        OSError: The file cannot be written.
    """
    about = {
        **vectors.provenance,
        "toolkit_version": __version__,
        "per": vectors.per,
        "set": vectors.is_set,
        "fitted_on": list(vectors.fitted_on),
    }
    about[DIGEST] = _digest(vectors, about)
    if out.suffix == ".parquet":
        write_parquet(out, vectors.bags.features, vectors.about, about, _npz(vectors))
    elif out.suffix == ".h5ad":
        _write_h5ad(vectors, about, out)
    else:
        _write_folder(vectors, about, out)


def _digest(vectors: SlideVectors, about: Mapping[str, Any]) -> str:
    """Return a digest of everything in a file or folder, which neither Parquet nor HDF5 verifies."""
    order = np.argsort(np.array(vectors.bags.slides))  # a folder has none
    bags = vectors.bags.subset(order)
    features = bags.features.astype(np.float32)
    arrays: dict[str, npt.ArrayLike] = {"names": np.array(bags.slides), "sizes": bags.sizes, "features": features}
    if vectors.is_set:
        arrays["weights"] = vectors.weights[vectors.bags.regions_of(order)].astype(np.float32)
    arrays |= {f"fitted/{name}": values for name, values in vectors.parameters.items()}
    text = json.dumps({name: value for name, value in about.items() if name != DIGEST}, sort_keys=True)
    return digest_of(arrays | {"about": np.array(text)})


def _write_h5ad(vectors: SlideVectors, about: dict[str, Any], out: Path) -> None:
    """One observation per slide or patient. Sets: X holds the mean, obsm the prototypes, padded with weight 0."""
    bags = vectors.bags
    rows = pd.DataFrame({f"{vectors.per}_id": bags.slides}, index=pd.Index(bags.slides))
    uns = {
        name: np.array(value, object) if name == "fitted_on" else value for name, value in about.items() if value != []
    }
    uns |= {"parameters": dict(vectors.parameters)} if vectors.parameters else {}
    if not vectors.is_set:
        write_h5ad(out, bags.features, rows, None, uns)
        return
    most = int(bags.sizes.max())
    mask = np.arange(most) < bags.sizes[:, None]
    padded, weights = np.zeros((*mask.shape, bags.width), np.float32), np.zeros(mask.shape, np.float32)
    padded[mask], weights[mask] = bags.features, vectors.weights
    write_h5ad(
        out, bags.mean(), rows, None, uns, {"prototypes": padded.reshape(len(bags.slides), -1), "weights": weights}
    )


def require_file_names(names: Iterable[str], out: Path) -> None:
    """Check that slides or patients can be file names in the folder `out`.

    Raises:
        UsageError: One cannot.
    """
    unsafe = [name for name in names if not is_safe_name(name)]
    if unsafe:
        raise UsageError(
            f"--out: {unsafe[0]!r} cannot be a file name in {out}.", hint="Write a .parquet file, which holds any name."
        )


def require_own_folder(out: Path) -> None:
    """Check that a folder is new, or was written by `write_vectors`, whose files are replaced.

    Raises:
        UsageError: It has HDF5 files of something else, or results of another command.
    """
    require_results_of("represent", out)
    if out.is_dir() and not (out / ABOUT).exists() and any(out.glob("*.h5")):
        raise UsageError(
            f"--out: {out} has .h5 files that `slpd represent` did not write, or did not finish.",
            hint="Choose another folder, or remove them.",
        )


def _write_folder(vectors: SlideVectors, about: dict[str, Any], out: Path) -> None:
    require_file_names(vectors.bags.slides, out)
    make_folder(out)
    (out / ABOUT).unlink(missing_ok=True)  # written last: a folder that has it is complete
    (out / FITTED).unlink(missing_ok=True)
    for path in set(out.glob("*.h5")) - {out / f"{name}.h5" for name in vectors.bags.slides}:
        path.unlink()  # of an earlier call with other slides
    for row, name in enumerate(vectors.bags.slides):
        inside = slice(int(vectors.bags.offsets[row]), int(vectors.bags.offsets[row + 1]))
        features = vectors.bags.features[inside] if vectors.is_set else vectors.bags.features[inside][0]
        layout, arrays = Layout(), {"features": features}
        if vectors.is_set:
            arrays["weights"] = vectors.weights[inside]
        with describe_layout(layout) as made:
            for each, values in arrays.items():
                made.reserve(each, values.shape, values.dtype).attrs.update({"name": name})
        write_layout(out / f"{name}.h5", layout, arrays)
    if vectors.parameters:
        with atomic_path(out / FITTED) as partial, partial.open("wb") as file:
            file.write(_npz(vectors))
    write_text(out / ABOUT, json.dumps(about, indent=1))


def _npz(vectors: SlideVectors) -> bytes:
    buffer = io.BytesIO()
    if vectors.parameters:
        arrays: dict[str, Any] = dict(vectors.parameters)
        np.savez(buffer, **arrays)
    return buffer.getvalue()


def is_own_file(path: Path) -> bool:
    """Return whether a path is a .parquet file or a folder that `slpd represent` wrote."""
    if path.is_dir():
        return (path / ABOUT).is_file()
    return path.suffix == ".parquet" and "per" in _parquet_metadata(path)


def read_vectors_back(path: Path) -> SlideVectors:
    """Read a .parquet file or a folder of `slpd represent`.

    Raises:
        UsageError: It is neither, is damaged, or contains values that are not finite or weights that do not sum to 1.
    """
    try:
        if path.is_dir():
            about = read_json(path / ABOUT)
            names, vectors, weights = _read_folder(path)
            fitted = path / FITTED
            parameters = read_npz(fitted) if fitted.exists() else {}
        else:
            about = _parquet_metadata(path)
            names, vectors, weights = _read_table(path, _PER[about["per"]])
            parameters = _parquet_parameters(path)
        whole = dict(about)
        per, fitted_on = about.pop("per"), tuple(map(str, about.pop("fitted_on")))
        digest = about.pop(DIGEST, None)
        bags = Bags(*_grouped(names, vectors), weights if about.pop("set") else None)
    except (OSError, ValueError, TypeError, LookupError, Hdf5Error) as error:
        raise UsageError(f"{path} cannot be read as slide vectors ({error}).", hint=_WRITTEN_BY) from error
    _require_numbers(path, bags)
    found = SlideVectors(bags, per, str(about.get("descriptor", "")), fitted_on, parameters, about)
    if digest not in (None, _digest(found, whole)):
        raise UsageError(f"{path} was changed or damaged: its digest does not match its contents.", hint=_WRITTEN_BY)
    return found


def _read_table(path: Path, column: str) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    table = pd.read_parquet(path, page_checksum_verification=True)
    features = table.drop(columns=[column, _PROTOTYPE, _WEIGHT], errors="ignore").to_numpy(np.float32)
    weights = table[_WEIGHT].to_numpy(np.float32) if _WEIGHT in table else None
    return table[column].astype(str).tolist(), features, weights


def _read_folder(path: Path) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    names, parts, weights = [], [], []
    for file in sorted(path.glob("*.h5")):
        features = np.atleast_2d(read_hdf5(file, "features")).astype(np.float32)
        if "weights" in describe_hdf5(file).datasets:
            weights.append(read_hdf5(file, "weights").astype(np.float32))
        names += [file.stem] * len(features)
        parts.append(features)
    return names, np.concatenate(parts), np.concatenate(weights) if weights else None


def _grouped(
    names: list[str], vectors: npt.NDArray[np.float32]
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Find where each slide begins; its rows must be contiguous."""
    ids = list(dict.fromkeys(names))
    counts = np.bincount(np.unique(np.array(names), return_inverse=True)[1])[np.argsort(np.argsort(np.array(ids)))]
    if np.repeat(np.array(ids), counts).tolist() != names:
        raise ValueError("the rows of a slide or patient are not contiguous")
    return tuple(ids), vectors, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _require_numbers(path: Path, bags: Bags) -> None:
    wrong = not len(bags.features) or not np.isfinite(bags.features).all()
    if bags.weights is not None and not wrong:
        sums = np.add.reduceat(bags.weights, bags.offsets[:-1])
        wrong = bool((bags.weights < 0).any() or not np.allclose(sums, 1, atol=1e-3))
    if wrong:
        raise UsageError(f"{path} has no vectors, NaN or infinity, or weights that do not sum to 1.", hint=_WRITTEN_BY)


def _parquet_metadata(path: Path) -> dict[str, Any]:
    """Return the provenance that `write_parquet` stores; empty for other files."""
    try:
        from pyarrow import parquet

        found = json.loads((parquet.read_schema(path).metadata or {}).get(b"slpd", b"{}"))
    except (ImportError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parquet_parameters(path: Path) -> dict[str, npt.NDArray[Any]]:
    from pyarrow import parquet

    content = (parquet.read_schema(path).metadata or {}).get(b"slpd_fitted")
    if not content:
        return {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
