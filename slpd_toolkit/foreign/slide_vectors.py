"""Vectors of slides or patients as slide encoders write them: TRIDENT, STAMP, COBRA, EAGLE, slide2vec, MOOZY, CHIEF.

The tool is recognized from the content. A folder holds one file per slide or patient, named by its ID: .h5 with
`features` (TRIDENT, MOOZY) or `feats` (STAMP), .pt (slide2vec, CHIEF) or .npz (slide2vec). A single .h5 file holds one
dataset per slide or patient (COBRA, EAGLE), or it is AnnData (.h5ad).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.hdf5_reader import describe_hdf5, read_hdf5
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.foreign.tensors import read_tensor

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.hdf5_reader import Hdf5Contents

Per = Literal["slide", "patient"]
FILE_SUFFIXES = (".h5", ".pt", ".npz")
"""Files of a folder, one kind per folder."""
PICKLES = (".pkl", ".pickle")
_MOST_DATASETS = 10_000
_ANNDATA = ".h5ad"
_PATCHES = "These are features of patches, not of slides: convert them with `slpd import`, or pool them per slide."
_REMEDY = "Write these files again, or remove them to leave the slides out (`slpd mil-eval --allow-missing`)."


@dataclass(frozen=True, eq=False)
class ForeignVectors:
    """Vectors of one tool."""

    tool: str
    vectors: dict[str, npt.NDArray[np.float32]]
    """(D,) per slide or patient."""
    per: Per | None
    """What the vectors are of; None if the files do not say."""
    empty: tuple[str, ...] = ()
    """Slides without a vector, because they had no patch."""


def refuse_pickle(path: Path) -> None:
    """Refuse a pickle, which can run code when it is read.

    Raises:
        UsageError: Always; the hint converts files of TITAN (`filenames`, `embeddings`) and MADELEINE (`slide_ids`,
            `embeds`).
    """
    target = path.with_suffix(".npz").name
    raise UsageError(
        f"{path} is a pickle, which can execute arbitrary code when it is loaded, so it is not read.",
        hint='If you trust its source, convert it: python -c "import pickle, numpy as np; d = pickle.load(open('
        f"'{path.name}', 'rb')); np.savez('{target}', slide_id=np.array([str(i) for i in d.get('filenames', "
        "d.get('slide_ids'))]), vectors=np.asarray(d.get('embeddings', d.get('embeds'))))\"",
    )


def is_vector_folder(folder: Path) -> bool:
    """Return whether a folder, or a folder in it, has files that may be vectors of slides."""
    return any(True for suffix in (*FILE_SUFFIXES, *PICKLES) for _ in folder.rglob(f"*{suffix}"))


def read_slide_vectors(path: Path) -> ForeignVectors:
    """Read a folder, an .h5 or an .h5ad file of slide vectors.

    Raises:
        UsageError: It is of no known tool, holds features of patches, a file cannot be read, vectors differ in length
            or are not finite, or two files are of the same slide.
    """
    if path.suffix.lower() in PICKLES:
        refuse_pickle(path)
    found = _read_folder(path) if path.is_dir() else _read_file(path)
    if not found.vectors:
        raise UsageError(f"{path} has no slide vectors.", hint="Check that it is the output of a slide encoder.")
    widths: dict[int, str] = {}
    for name, vector in found.vectors.items():
        widths.setdefault(len(vector), name)
    if len(widths) > 1:
        (one, first), (other, second) = list(widths.items())[:2]
        raise UsageError(
            f"{path}: vectors differ in length: {first} has {one}, {second} has {other}.",
            hint="Use the vectors of one encoder.",
        )
    broken = [name for name, vector in found.vectors.items() if not np.isfinite(vector).all()]
    if broken:
        raise UsageError(f"{path}: NaN or infinity in the vectors of {listed(broken)}.", hint=_REMEDY)
    return found


def _files_of(folder: Path) -> list[Path]:
    """Return the files of a folder, all of one kind and each of another slide.

    Raises:
        UsageError: There are none, several kinds, or two files of one slide.
    """
    files = {suffix: sorted(folder.rglob(f"*{suffix}")) for suffix in FILE_SUFFIXES}
    present = {suffix: paths for suffix, paths in files.items() if paths}
    if not present:
        for path in sorted(path for suffix in PICKLES for path in folder.rglob(f"*{suffix}")):
            refuse_pickle(path)
        raise UsageError(f"{folder} has no files of slide vectors ({', '.join(FILE_SUFFIXES)}).")
    if len(present) > 1:
        counts = ", ".join(f"{len(paths)} {suffix}" for suffix, paths in present.items())
        raise UsageError(f"{folder} has files of several kinds: {counts}.", hint="Name the folder of one of them.")
    (paths,) = present.values()
    names = [path.stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UsageError(f"{folder}: several files of {listed(twice)}.", hint="Name the folder of one encoder.")
    return paths


def _read_folder(folder: Path) -> ForeignVectors:
    paths = _files_of(folder)
    tools: set[str] = set()
    pers: set[Per | None] = set()
    vectors, empty, faults = {}, [], []
    for path in paths:
        name = path.stem
        try:
            tool, per, vector = _read_h5(path) if path.suffix == ".h5" else _read_tensor(path)
        except UsageError:
            raise
        except SlpdError as error:
            faults.append(f"{path.name} ({error.message})")
            continue
        tools.add(tool)
        pers.add(per)
        if vector is None:
            empty.append(name)
        else:
            vectors[name] = vector
    if faults:
        raise UsageError(
            f"{folder}: {len(faults)} of {count(len(paths), 'file')} cannot be read: {listed(faults)}.", hint=_REMEDY
        )
    if len(pers) > 1:
        raise UsageError(f"{folder} has vectors of slides and of patients.", hint="Name the folder of one of them.")
    return ForeignVectors(" or ".join(sorted(tools)), vectors, next(iter(pers), None), tuple(empty))


def _read_h5(path: Path) -> tuple[str, Per | None, npt.NDArray[np.float32] | None]:
    """Read one slide of TRIDENT, MOOZY or STAMP: tool, what it is of, and its vector, None if it had no patch."""
    contents = describe_hdf5(path)
    name = next((each for each in ("features", "feats") if each in contents.datasets), "")
    if not name:
        found = ", ".join(list(contents.datasets)[:8]) or "no dataset; links are not followed"
        of_patches = any(each.startswith("features/") for each in contents.datasets)  # AtlasPatch
        raise UsageError(
            f"{path} has neither `features` nor `feats`; found {found}.",
            hint=_PATCHES
            if of_patches
            else "Known: TRIDENT, STAMP and MOOZY, with one file per slide. Of COBRA and EAGLE, give the .h5 file, not "
            "its folder.",
        )
    shape, kind = contents.datasets[name].shape, contents.attributes.get("feat_type")
    if (len(shape) == 2 and shape[0] > 1) or len(shape) > 2 or kind == "tile":
        raise UsageError(f"{path}: `{name}` has the shape {shape}.", hint=_PATCHES)
    if name == "feats":
        return "STAMP", kind if kind in {"slide", "patient"} else None, _vector(path, read_hdf5(path, name))
    coords = contents.datasets.get("coords")
    tool = "MOOZY" if coords is not None and len(coords.shape) == 1 else "TRIDENT"
    if 0 in shape:
        return tool, None, None
    return tool, None, _vector(path, read_hdf5(path, name))


def _read_tensor(path: Path) -> tuple[str, Per | None, npt.NDArray[np.float32] | None]:
    """Read one slide of slide2vec (which writes a .meta.json next to it) or CHIEF."""
    values = read_tensor(path)
    if values.ndim > 2 or (values.ndim == 2 and len(values) > 1):
        raise UsageError(f"{path}: its tensor has the shape {values.shape}.", hint=_PATCHES)
    known = path.suffix == ".npz" or path.with_suffix(".meta.json").exists()
    per: Per | None = {"slide_embeddings": "slide", "patient_embeddings": "patient"}.get(path.parent.name)  # type: ignore[assignment]
    return "slide2vec" if known else "CHIEF", per, _vector(path, values)


def _read_file(path: Path) -> ForeignVectors:
    contents = describe_hdf5(path)
    if path.suffix == _ANNDATA or ("X" in contents.datasets and "obs" in contents.groups):
        return _read_anndata(path, contents)
    for name in ("features", "feats"):
        if name in contents.datasets and len(contents.datasets[name].shape) <= 2:
            raise UsageError(f"{path} contains a single slide.", hint=f"Name its folder: {path.parent}.")
    if len(contents.datasets) >= _MOST_DATASETS:
        raise UsageError(
            f"{path} has {count(_MOST_DATASETS, 'dataset')} or more.", hint="Convert it to .npz or .parquet."
        )
    odd = [
        f"{name} {each.shape}"
        for name, each in contents.datasets.items()
        if each.dtype is None or each.dtype.kind != "f" or not _is_vector(each.shape)
    ]
    if odd or not contents.datasets:
        raise UsageError(
            f"{path} does not hold one vector per slide or patient: {listed(odd) or 'no dataset'}.",
            hint="Known single files: those of COBRA and EAGLE, with a dataset per ID, and AnnData.",
        )
    if contents.others:
        unread = listed(f"{name} ({kind})" for name, kind in contents.others.items())
        raise UsageError(
            f"{path}: some of its members cannot be read as vectors: {unread}.",
            hint="Write one dataset per slide or patient, named by its ID, without links and groups within groups.",
        )
    vectors = {name: _vector(path, read_hdf5(path, name)) for name in contents.datasets}
    return ForeignVectors("COBRA" if "top_k" in contents.attributes else "EAGLE", vectors, None)


def _read_anndata(path: Path, contents: Hdf5Contents) -> ForeignVectors:
    """Read X of a dense AnnData file; obs names are slides, or patients if obs has patient_id and no slide_id."""
    index = f"obs/{contents.groups.get('obs', {}).get('_index', '_index')}"
    values = contents.datasets.get("X")
    if values is None or len(values.shape) != 2 or index not in contents.datasets:
        raise UsageError(f"{path} has no dense X with names of its rows in obs.", hint="Write it with anndata.")
    names = [str(name) for name in read_hdf5(path, index).tolist()]
    if values.dtype is None or values.dtype.kind not in "biuf":
        raise UsageError(
            f"{path}: X contains {values.dtype or 'text'}, expected numbers.", hint="Write it with anndata."
        )
    with np.errstate(over="ignore"):
        rows = np.asarray(read_hdf5(path, "X"), np.float32)
    if len(names) != len(rows) or len(set(names)) < len(names):
        raise UsageError(f"{path}: obs does not name each row of X once.", hint="One row per slide.")
    members = {name.split("/")[1] for name in [*contents.datasets, *contents.groups] if name.startswith("obs/")}
    per: Per | None = "slide" if "slide_id" in members else "patient" if "patient_id" in members else None
    return ForeignVectors("AnnData", dict(zip(names, rows, strict=True)), per)


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)


def _vector(path: Path, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype.kind != "f" or not values.size:
        raise UsageError(f"{path} holds {values.dtype} of shape {values.shape}, expected a vector of numbers.")
    with np.errstate(over="ignore"):
        return values.reshape(-1).astype(np.float32)
