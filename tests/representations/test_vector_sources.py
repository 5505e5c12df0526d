from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest

from slpd_toolkit.commands import represent
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.representations.sources import Kind, parse_sources
from slpd_toolkit.representations.vector_sources import open_table
from tests.foreign.test_slide_vectors import VECTORS, cobra, stamp

if TYPE_CHECKING:
    from pathlib import Path

PATIENT_OF = {"a1": "TCGA-1", "a2": "TCGA-1", "b1": "TCGA-2", "c1": "TCGA-3"}


def represented(table: object, slide: str) -> np.ndarray:
    with console.progress("x", total=1, unit="x") as bar:
        found: np.ndarray = table.represent([slide], bar).bags.features  # type: ignore[attr-defined]
    return found


def test_vectors_of_patients_represent_all_their_slides(tmp_path: Path) -> None:
    for path in (cobra(tmp_path), stamp(tmp_path, "patient")):
        table = open_table("x", path, patient_of=PATIENT_OF)
        assert set(table.slides) == set(PATIENT_OF)
        np.testing.assert_array_equal(represented(table, "a2")[0], VECTORS["TCGA-1"])


def test_ids_of_slides_stay_those_of_slides(tmp_path: Path) -> None:
    table = open_table("x", cobra(tmp_path), patient_of={name: f"p-{name}" for name in VECTORS})
    assert set(table.slides) == set(VECTORS)


def test_patients_that_the_manifest_lacks_are_kept_to_be_told(tmp_path: Path) -> None:
    table = open_table("x", cobra(tmp_path), patient_of={"a1": "TCGA-1"})
    assert set(table.slides) == {"a1", "TCGA-2", "TCGA-3"}


def test_a_table_may_name_patients(tmp_path: Path) -> None:
    pd.DataFrame({"patient_id": list(VECTORS), "f0": [1.0, 2, 3], "f1": [0.0, 1, 5]}).to_csv(
        tmp_path / "p.csv", index=False
    )
    np.testing.assert_array_equal(
        represented(open_table("x", tmp_path / "p.csv", patient_of=PATIENT_OF), "b1"), [[2, 1]]
    )


def test_outputs_of_represent_keep_sets_weights_and_whom_they_were_fitted_on(cache: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"model": "mean-tokens", "cache": cache, "device": "cpu"}
    made = represent.make(RepresentConfig(**common, as_="prototypes", out=tmp_path / "sets.parquet"))
    table = open_table("x", tmp_path / "sets.parquet")
    assert table.weights is not None
    np.testing.assert_array_equal(table.vectors["slide001"], made["slide001"])
    assert table.weights["slide001"].sum() == pytest.approx(1)
    assert not table.pretraining_known
    represent.make(RepresentConfig(**common, as_="histogram", out=tmp_path / "h"))
    fitted = open_table("x", tmp_path / "h")
    assert (len(fitted.pretrained), fitted.pretraining_known) == (5, True)


def test_collapsed_vectors_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = 5 + 0.01 * np.random.default_rng(0).normal(size=(8, 6))
    np.savez(tmp_path / "v.npz", slide_id=[f"s{i}" for i in range(8)], vectors=values)
    open_table("gigapath", tmp_path / "v.npz")
    assert "gigapath: all 8 vectors are within a cosine distance of" in capsys.readouterr().err.replace("\n", " ")


def test_ids_in_another_encoding_are_refused(tmp_path: Path) -> None:
    latin = "é".encode("latin-1")
    np.savez(tmp_path / "v.npz", slide_id=np.array([b"a", latin]), vectors=np.eye(2))
    with h5py.File(tmp_path / "v.h5ad", "w") as file:
        file["X"], file["obs/_index"] = np.eye(2), np.array([b"a", latin])
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (b"a", latin):
        np.savez(folder / f"{os.fsdecode(name)}.npz", features=np.ones(3))
    for path in (tmp_path / "v.npz", tmp_path / "v.h5ad", folder):
        with pytest.raises(UsageError, match=r"1 ID is not valid UTF-8: .*Rename the files, or write the IDs in UTF-8"):
            open_table("x", path)


def test_a_file_that_was_hardly_written_is_refused_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.ones(3))
    (tmp_path / "notes.csv").write_text("slide_id,x\n")
    os.truncate(tmp_path / "notes.csv", 1 << 40)
    with pytest.raises(UsageError, match=r"notes\.csv cannot be read \(almost none of its 1,099,511,627,776 bytes"):
        open_table("x", tmp_path)
    with pytest.raises(UsageError, match=r"notes\.csv cannot be read as UTF-8 CSV .*almost none of its"):
        open_table("x", tmp_path / "notes.csv")


def test_sources_are_recognized_by_their_files(tmp_path: Path) -> None:
    for path in (cobra(tmp_path), stamp(tmp_path)):
        (source,) = parse_sources([f"titan={path}"])
        assert (source.kind, source.path, source.needs_tokens) == (Kind.TABLE, path, False)
