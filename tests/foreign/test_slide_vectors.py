"""Slide and patient vectors, in files laid out as each tool writes them."""

from __future__ import annotations

import json
import pickle
import re
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.foreign.anndata_parquet import write_h5ad
from slpd_toolkit.foreign.slide_vectors import is_vector_folder, read_slide_vectors, refuse_pickle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
VECTORS = {name: RNG.normal(size=6).astype(np.float32) for name in ("TCGA-1", "TCGA-2", "TCGA-3")}


def h5(path: Path, attributes: dict[str, Any], **datasets: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, values in datasets.items():
            file[name] = values


def trident(root: Path) -> Path:
    folder = root / "20x_512px_0px_overlap" / "slide_features_titan"
    for name, vector in VECTORS.items():
        h5(folder / f"{name}.h5", {}, features=vector, coords=np.zeros((7, 2), np.int64))
        with h5py.File(folder / f"{name}.h5", "a") as file:
            file["features"].attrs.update({"name": name, "savetodir": "/x"})
            file["coords"].attrs.update({"patch_size": 512, "overlap": 0})
    return folder


def stamp(root: Path, feat_type: str = "slide", rows: bool = True) -> Path:
    about = {"version": "2.4.0", "encoder": "titan", "precision": "torch.float32", "feat_type": feat_type}
    for name, vector in VECTORS.items():
        h5(root / "titan-slide-1a2b3c4d" / "site" / f"{name}.h5", about, feats=vector[None] if rows else vector)
    return root / "titan-slide-1a2b3c4d"


def moozy(root: Path) -> Path:
    for name, vector in VECTORS.items():
        h5(root / "moozy" / f"{name}.h5", {}, features=vector, coords=np.zeros(2, np.float32))
    return root / "moozy"


def cobra(root: Path) -> Path:
    h5(root / "cobra_feats.h5", {"extractor": "COBRAII", "top_k": "None", "microns": 224}, **VECTORS)
    return root / "cobra_feats.h5"


def eagle(root: Path) -> Path:
    h5(root / "cohort.h5", {"extractor": "eagle"}, **VECTORS)
    return root / "cohort.h5"


def slide2vec(root: Path, *, as_npz: bool = False) -> Path:
    folder = root / "slide_embeddings"
    folder.mkdir(parents=True)
    for name, vector in VECTORS.items():
        if as_npz:
            np.savez(folder / f"{name}.npz", features=vector)
        else:
            torch.save(torch.tensor(vector), folder / f"{name}.pt")
        about = {"sample_id": name, "encoder_name": "titan", "feature_dim": 6, "format": "pt"}
        (folder / f"{name}.meta.json").write_text(json.dumps(about))
    return folder


def chief(root: Path) -> Path:
    (root / "chief").mkdir(parents=True)
    for name, vector in VECTORS.items():
        torch.save(torch.tensor(vector[None]), root / "chief" / f"{name}.pt")
    return root / "chief"


@pytest.mark.parametrize(
    ("write", "tool", "per"),
    [
        (trident, "TRIDENT", None),
        (stamp, "STAMP", "slide"),
        (lambda root: stamp(root, "patient", rows=False), "STAMP", "patient"),
        (moozy, "MOOZY", None),
        (cobra, "COBRA", None),
        (eagle, "EAGLE", None),
        (slide2vec, "slide2vec", "slide"),
        (lambda root: slide2vec(root, as_npz=True), "slide2vec", "slide"),
        (chief, "CHIEF", None),
    ],
    ids=["trident", "stamp", "stamp-patient", "moozy", "cobra", "eagle", "slide2vec", "slide2vec-npz", "chief"],
)
def test_each_tool_is_recognized_from_its_files(
    tmp_path: Path, write: Callable[[Path], Path], tool: str, per: str | None
) -> None:
    path = write(tmp_path)
    assert path.is_file() or is_vector_folder(path)
    found = read_slide_vectors(path)
    assert (found.tool, found.per, found.empty) == (tool, per, ())
    assert found.vectors.keys() == VECTORS.keys()
    for name, vector in VECTORS.items():
        np.testing.assert_array_equal(found.vectors[name], vector)


def test_a_slide_without_patches_is_told(tmp_path: Path) -> None:
    folder = trident(tmp_path)
    h5(folder / "bare.h5", {}, features=np.zeros(0, np.float32))
    assert read_slide_vectors(folder).empty == ("bare",)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    h5(tmp_path / "c.h5", {}, a=np.ones(3, np.float16), b=np.zeros(3, np.float16))
    assert read_slide_vectors(tmp_path / "c.h5").vectors["a"].dtype == np.float32


def test_anndata_is_read_by_the_names_of_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("anndata")
    rows = pd.DataFrame({"n": 1.0}, index=pd.Index(list(VECTORS)))
    write_h5ad(tmp_path / "x.h5ad", np.stack(list(VECTORS.values())), rows, None, {})
    found = read_slide_vectors(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(found.vectors["TCGA-2"], VECTORS["TCGA-2"])


def test_text_in_place_of_numbers_is_refused(tmp_path: Path) -> None:
    h5(tmp_path / "x.h5ad", {}, **{"X": np.array([[b"a"]]), "obs/_index": np.array([b"s"])})
    with pytest.raises(UsageError, match=r"X contains .*, expected numbers"):
        read_slide_vectors(tmp_path / "x.h5ad")


OTHERS: dict[str, dict[str, Any]] = {
    "nan": {"features": np.full(6, np.nan, np.float32)},
    "width": {"features": np.ones(5, np.float32)},
    "unknown": {"embedding": np.ones(6, np.float32)},
    "integers": {"features": np.ones(6, np.int64)},
    "link": {"features": h5py.ExternalLink("TCGA-2.h5", "features")},
    "atlaspatch": {"coords": np.zeros((9, 5), np.int32), "features/uni_v1": np.ones((9, 6), np.float32)},
    "cobra": VECTORS,
}
"""What else an .h5 file of a folder may hold."""


def spoil(change: str, root: Path) -> Path:
    folder = trident(root)
    file = folder / "TCGA-1.h5"
    if change == "patches":
        h5(file, {}, features=np.ones((50, 6), np.float32), coords=np.zeros((50, 2)))
    elif change == "tiles":
        h5(file, {"feat_type": "tile"}, feats=np.ones((1, 6), np.float32))
    elif change in OTHERS:
        h5(file, {}, **OTHERS[change])
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:400])
    elif change == "kinds":
        torch.save(torch.ones(6), folder / "TCGA-9.pt")
    elif change == "twice":
        h5(folder / "more" / "TCGA-1.h5", {}, features=np.ones(6, np.float32))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("patches", r"`features` has the shape \(50, 6\).*convert them with `slpd import`"),
        ("tiles", r"`feats` has the shape \(1, 6\)"),
        ("nan", "NaN or infinity in the vectors of TCGA-1"),
        ("width", "vectors differ in length: TCGA-1 has 5, TCGA-2 has 6"),
        ("unknown", "has neither `features` nor `feats`; found embedding"),
        ("link", "found no dataset; links are not followed"),
        ("atlaspatch", r"found coords, features/uni_v1.*convert them with `slpd import`"),
        ("cobra", "has neither `features` nor `feats`.*give the .h5 file, not its folder"),
        ("cut", r"1 of 3 files cannot be read: TCGA-1\.h5"),
        ("integers", r"holds int64 of shape \(6,\), expected a vector of numbers"),
        ("kinds", r"files of several kinds: 3 \.h5, 1 \.pt"),
        ("twice", "several files of TCGA-1"),
    ],
)
def test_hostile_folders_are_refused(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_slide_vectors(spoil(change, tmp_path))
    import re

    assert re.search(said, f"{caught.value} {caught.value.hint}"), str(caught.value)


def test_single_files_that_hold_no_vectors_are_refused(tmp_path: Path) -> None:
    h5(tmp_path / "one.h5", {}, features=np.ones(6, np.float32))
    with pytest.raises(UsageError, match="contains a single slide"):
        read_slide_vectors(tmp_path / "one.h5")
    h5(tmp_path / "two.h5", {}, a=np.ones((3, 6), np.float32), b=np.ones(6))
    with pytest.raises(UsageError, match=r"does not hold one vector per slide or patient: a \(3, 6\)"):
        read_slide_vectors(tmp_path / "two.h5")


def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    path = tmp_path / "TCGA_TITAN_features.pkl"
    path.write_bytes(pickle.dumps({"filenames": list(VECTORS), "embeddings": np.stack(list(VECTORS.values()))}))
    with pytest.raises(UsageError, match="is a pickle, which can execute arbitrary code") as caught:
        refuse_pickle(path)
    for each in (path, tmp_path):
        with pytest.raises(UsageError, match="is a pickle"):
            read_slide_vectors(each)
    import subprocess
    import sys

    code = caught.value.hint.partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with np.load(tmp_path / "TCGA_TITAN_features.npz") as converted:
        assert converted["slide_id"].tolist() == list(VECTORS)
        np.testing.assert_array_equal(converted["vectors"][1], VECTORS["TCGA-2"])


@pytest.mark.parametrize("name", ["a/b/c", "../../x"])
def test_members_that_are_not_read_are_named(tmp_path: Path, name: str) -> None:
    path = cobra(tmp_path)
    with h5py.File(path, "a") as file:
        holder = file
        for part in name.split("/")[:-1]:
            holder = h5py.Group(h5py.h5g.create(holder.id, part.encode()))
        h5py.h5d.create(holder.id, name[-1:].encode(), h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((5,)))
    with pytest.raises(UsageError, match=re.escape(f"cannot be read as vectors: {name[:-1]}... (too deep)")):
        read_slide_vectors(path)


def test_links_are_named(tmp_path: Path) -> None:
    path = cobra(tmp_path)
    with h5py.File(path, "a") as file:
        file["other"] = h5py.SoftLink("/S1")
    with pytest.raises(UsageError, match=r"cannot be read as vectors: other \(link\)"):
        read_slide_vectors(path)
