from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from slpd_toolkit.commands import represent
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.core import console
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


def test_sources_are_recognized_by_their_files(tmp_path: Path) -> None:
    for path in (cobra(tmp_path), stamp(tmp_path)):
        (source,) = parse_sources([f"titan={path}"])
        assert (source.kind, source.path, source.needs_tokens) == (Kind.TABLE, path, False)
