from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from slpd_toolkit.core.hdf5_plain import describe_plain
from slpd_toolkit.core.hdf5_reader import describe_hdf5
from slpd_toolkit.core.hdf5_writer import write_hdf5

if TYPE_CHECKING:
    from pathlib import Path


def test_it_finds_what_the_library_finds(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    numbers = {"int": -3, "float": 0.1, "list": np.arange(3.0), "none": np.zeros(0), "flag": np.uint8(2)}
    texts = {f"text{number}": "ä" * number for number in range(40)}
    datasets = {
        "half": np.ones((4, 3), np.float16),
        "flags": np.ones((2, 2), bool),
        "empty": np.zeros((0, 7), np.int64),
        "big": np.arange(40_000, dtype=np.uint32),
    }
    write_hdf5(path, numbers | texts, datasets)
    quick, slow = describe_plain(path), describe_hdf5(path)
    assert quick is not None
    assert quick.attributes.keys() == slow.attributes.keys()
    for name, value in slow.attributes.items():
        np.testing.assert_array_equal(quick.attributes[name], value)
    assert quick.datasets == slow.datasets


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_what_others_write_is_left_to_the_library(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["text"] = "of any length"
        file["x"] = np.arange(3)
    assert describe_plain(path) is None
    path.write_bytes(b"text")
    assert describe_plain(path) is None


def test_it_ends_on_every_damaged_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_hdf5(path, {"text": "abc", "number": 3}, {"x": np.arange(4)})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        describe_plain(path)  # a description, or None
