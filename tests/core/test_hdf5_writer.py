from __future__ import annotations

import re
import resource
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from slpd_toolkit.core.hdf5_writer import write_hdf5

if TYPE_CHECKING:
    from pathlib import Path


def test_h5py_reads_what_was_written(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    attributes = {f"text{number}": "ä" * number for number in range(40)} | {"number": 3}
    datasets: dict[str, Any] = {
        "values": values,
        "ids": ["a", "zwö", ""],
        "group/flags": np.array([True, False]),
        "none": np.zeros(0),
    }
    write_hdf5(tmp_path / "a.h5", attributes, datasets, {"group": {"name": "é"}})
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["values"][...], values)
        assert file["ids"].asstr()[...].tolist() == ["a", "zwö", ""]
        assert file["group/flags"][...].tolist() == [True, False]
        assert file["group"].attrs["name"].decode() == "é"
        assert file["none"].shape == (0,)
        assert file.attrs["number"] == 3
        assert all(file.attrs[f"text{number}"].decode() == "ä" * number for number in range(40))
    content = (tmp_path / "a.h5").read_bytes()
    assert b"GCOL" not in content  # the heap of texts of variable length, which has no checksum
    assert b"FRHP" not in content


@pytest.mark.parametrize("limit", [0, 100, 3000, 80_000])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.h5"
    write_hdf5(path, {"kept": 1}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"a\.h5") as caught:
            write_hdf5(path, {}, {"x": np.ones(100_000), "ids": ["a"]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]
    with h5py.File(path) as file:
        assert file.attrs["kept"] == 1


def test_the_same_content_is_the_same_bytes_at_any_time(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "x.h5", {"a": 1}, {"values": np.arange(3), "group/values": np.arange(3)}, {"group": {}})
    headers = re.findall(rb"OHDR\x02(.)", (tmp_path / "x.h5").read_bytes(), re.DOTALL)
    assert len(headers) == 4  # the file's root, a group and two datasets
    assert [flags for (flags,) in headers if flags & 0x20] == []  # HDF5 1.10, IV.A.1.b: bit 5, times are stored
