from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.representations.vector_tables import read_vectors

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED = {"007": [1.0, 2.5], "b": [3.0, -4.0]}


def assert_expected(path: Path) -> None:
    found = read_vectors(path)
    assert {slide: vector.tolist() for slide, vector in found.items()} == {k: [v] for k, v in EXPECTED.items()}
    assert all(vector.dtype == np.float32 for vector in found.values())


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("f0,slide_id,f1\n1,007,2.5\n3,b,-4\n")
    assert_expected(tmp_path / "v.csv")


def test_npz_of_two_arrays_and_of_one_a_slide(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", slide_id=list(EXPECTED), vectors=list(EXPECTED.values()))
    assert_expected(tmp_path / "v.npz")
    each: dict[str, Any] = {slide: np.array([vector]) for slide, vector in EXPECTED.items()}
    np.savez(tmp_path / "w.npz", **each)
    assert_expected(tmp_path / "w.npz")


def test_ids_of_an_npz_may_be_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", slide_id=np.array([b"007", b"b"]), vectors=list(EXPECTED.values()))
    assert_expected(tmp_path / "v.npz")
    np.savez(tmp_path / "v.npz", slide_id=np.array(["é".encode()]), vectors=np.ones((1, 2)))
    assert list(read_vectors(tmp_path / "v.npz")) == ["é"]


def test_parquet_with_columns_with_lists_and_with_an_index(tmp_path: Path) -> None:
    table = pd.DataFrame({"slide_id": list(EXPECTED), "f0": [1.0, 3.0], "f1": [2.5, -4.0]})
    table.to_parquet(tmp_path / "v.parquet")
    assert_expected(tmp_path / "v.parquet")
    table.set_index("slide_id").to_parquet(tmp_path / "i.parquet")
    assert_expected(tmp_path / "i.parquet")
    pd.DataFrame({"slide_id": list(EXPECTED), "vector": list(EXPECTED.values())}).to_parquet(tmp_path / "l.parquet")
    assert_expected(tmp_path / "l.parquet")


def test_parquet_without_its_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", refuse)
    (tmp_path / "v.parquet").touch()
    with pytest.raises(UsageError, match="needs pyarrow") as caught:
        read_vectors(tmp_path / "v.parquet")
    assert "slpd-toolkit[parquet]" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,f0\na,1\n", "has no column slide_id; found id, f0"),
        ("slide_id,f0\na,1\na,2\n", "duplicate slide_id a"),
        ("slide_id,f0,f1\na,1,x\nb,1,y\n", "column f1 is not numeric"),
        ("slide_id\na\n", "has no features"),
        ("slide_id,f0\na,1\nb,\n", "the vector of b contains NaN or infinity"),
        ("slide_id,f0\n", "has no rows"),
        ("slide_id,f0\na,1\n ,2\n", "row 2 of the vectors has no slide_id"),
        ("slide_id,f0\na,1\nb,1e300\n", "the vector of b contains NaN or infinity"),
        (",slide_id,f0\n0,a,1\n1,b,2\n", "a column has no name"),
        ("slide_id,f0,grade\na,1,0\nb,2,1\n", "column grade belongs to the manifest"),
    ],
)
def test_a_csv_that_is_no_table_of_vectors_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_vectors(tmp_path / "v.csv", no_features={"slide_id", "grade"})


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, "not lists of numbers of equal length"),
        ({"a": np.zeros((4, 2))}, r"one has shape \(4, 2\)"),
        (
            {"slide_id": np.array(["a"]), "vectors": np.zeros((2, 3))},
            r"1 slide does not match vectors of shape \(2, 3\)",
        ),
        ({"slide_id": np.array(["a"]), "vectors": np.zeros(3)}, r"1 slide does not match vectors of shape \(3,\)"),
        ({"slide_id": np.array(["a"]), "vectors": np.array([["x"]])}, "vectors is not numeric"),
        ({"slide_id": np.array(["a"]), "vectors": np.array([[1j]])}, "vectors is not numeric"),
        ({"slide_id": np.array([["a"]]), "vectors": np.ones((1, 3))}, r"slide_id has the shape \(1, 1\), expected"),
        ({"slide_id": np.array("a"), "vectors": np.ones((1, 3))}, r"slide_id has the shape \(\), expected \(slides,\)"),
    ],
)
def test_an_npz_that_is_no_table_of_vectors_is_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(UsageError, match=said):
        read_vectors(tmp_path / "v.npz")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("setattr(__import__('numpy'), 'bombed', True)",)

    objects: dict[str, Any] = {"slide_id": np.array(["a"]), "vectors": np.array([Bomb()], dtype=object)}
    np.savez(tmp_path / "v.npz", **objects)
    with pytest.raises(UsageError, match="cannot be read as npz"):
        read_vectors(tmp_path / "v.npz")
    assert not hasattr(np, "bombed")
    (tmp_path / "w.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read as npz"):
        read_vectors(tmp_path / "w.npz")
