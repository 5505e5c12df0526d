from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.core.archives import ArchiveError, check_zip, is_zip, read_npz
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import require_regular
from slpd_toolkit.core.manifest import read_table

if TYPE_CHECKING:
    from pathlib import Path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_reads(tmp_path: Path, save: object) -> None:
    rng = np.random.default_rng(0)
    wanted: dict[str, np.ndarray] = {
        "floats": rng.normal(size=(5, 3)),
        "columns": np.asfortranarray(rng.normal(size=(4, 2)).astype(np.float16)),
        "texts": np.array(["a", "bc"]),
        "scalar": np.array(7),
        "none": np.zeros((0, 4)),
        "flags": np.array([True, False]),
    }
    save(tmp_path / "a.npz", **wanted)  # type: ignore[operator]
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    check_zip(tmp_path / "a.npz")
    assert is_zip(tmp_path / "a.npz")


@pytest.mark.slow
def test_what_is_not_an_array_or_claims_too_much_is_refused(tmp_path: Path) -> None:
    header = npy(np.zeros(4))[:-32].replace(b"(4,)", b"(9,)")
    huge = npy(np.zeros(4))[:-32].replace(b"(4,), }          ", b"(999999999999,), }")
    cases = {
        "its member 'a.npy' is not an array": b"junk",
        "member 'a.npy' claims 72 bytes but has 32": header + bytes(32),
        "claims 7,999,999,999,992 bytes": huge + bytes(32),
        "contains Python objects": npy(np.array(["x"], object)),
    }
    for said, content in cases.items():
        with pytest.raises(ArchiveError, match=said):
            read_npz(pack(tmp_path / "a.npz", {"a.npy": content}))
    with pytest.raises(ArchiveError, match="claims 200,000,128 bytes, compressed to"):
        read_npz(pack(tmp_path / "b.npz", {"a.npy": npy(np.zeros(25_000_000))}, zipfile.ZIP_DEFLATED))
    (tmp_path / "c.npz").write_bytes(b"text")
    with pytest.raises(ArchiveError):
        read_npz(tmp_path / "c.npz")
    with pytest.raises(OSError, match="No such file"):
        read_npz(tmp_path / "absent.npz")


def test_every_flipped_bit_of_a_value_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(64.0))
    whole = path.read_bytes()
    first = whole.index(np.arange(64.0).tobytes())
    for place in range(first, first + 512, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        for read in (read_npz, check_zip):
            with pytest.raises(ArchiveError, match="CRC"):
                read(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("vectors.npy", npy(np.zeros(3)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("vectors.npy", npy(np.ones(3)))
    with pytest.raises(ArchiveError, match=r"several members 'vectors\.npy'"):
        read_npz(tmp_path / "a.npz")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    for read in (is_zip, read_npz, require_regular, read_table):
        with pytest.raises((OSError, UsageError), match="not a regular file"):
            read(tmp_path / "f")
