from __future__ import annotations

import fcntl
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from slpd_toolkit.core import hdf5_process, hdf5_reader
from slpd_toolkit.core.hdf5_reader import Hdf5Error, chunk_offsets, describe_hdf5, end_processes, read_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a variable-length attribute, and thus a global heap."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"text": "ä" * 40, "number": 3, "list": np.arange(3.0), "texts": np.array(["a", "b"], "S1")})
        file["plain"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        file["plain"].attrs["unit"] = "px"
        file.create_dataset("packed", data=np.arange(6000).reshape(2000, 3), chunks=(100, 3), compression="gzip")
        file.create_dataset("rows", data=np.arange(12, dtype=np.float32).reshape(4, 3), chunks=(1, 3))
        file["ids"] = ["one", "zwö"]
        group = file.create_group("group")
        group.attrs["name"] = "g"
        group["inner"] = np.float64(7)
    return tmp_path / "a.h5"


def refused(path: Path, name: str = "") -> Hdf5Error:
    with pytest.raises(Hdf5Error) as caught:
        read_hdf5(path, name) if name else describe_hdf5(path)
    return caught.value


def test_what_h5py_finds(path: Path) -> None:
    found = describe_hdf5(path)
    assert found.names == ["group", "ids", "packed", "plain", "rows"]
    assert (found.attributes["text"], found.attributes["number"]) == ("ä" * 40, 3)
    assert found.attributes["list"].tolist() == [0, 1, 2]
    assert found.attributes["texts"].tolist() == ["a", "b"]
    assert found.groups["group"] == {"name": "g"}
    plain = found.datasets["plain"]
    assert (plain.shape, plain.nbytes, plain.filtered) == ((4, 3), 48, False)
    assert plain.dtype == np.dtype("f4")
    assert plain.attributes == {"unit": "px"}
    with h5py.File(path) as file:
        assert plain.offset == file["plain"].id.get_offset()
        for name in ("plain", "packed", "rows", "group/inner"):
            assert np.array_equal(read_hdf5(path, name), file[name][()])
            assert read_hdf5(path, name).dtype == file[name].dtype
    assert read_hdf5(path, "ids").tolist() == ["one", "zwö"]
    raw = path.read_bytes()
    rows = [np.frombuffer(raw, "<f4", 3, offset).tolist() for offset in chunk_offsets(path, "rows")]
    assert rows == np.arange(12.0).reshape(4, 3).tolist()


def test_relative_paths_and_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    short = path.relative_to(path.parent)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read_hdf5(short, "packed").sum(), range(40)))
    assert set(found) == {sum(range(6000))}


@pytest.mark.slow
def test_a_file_that_the_library_searches_without_end_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL")
    content[start + 16 : start + 100] = bytes(84)
    path.write_bytes(content)
    found = refused(path)
    assert found.kind == "damaged"
    assert "a.h5" in found.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGPROF, "damaged"), (signal.SIGSEGV, "damaged"), (signal.SIGKILL, "not readable now")]
)
def test_a_process_that_dies_costs_one_file(
    path: Path, number: signal.Signals, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_processes()
    started = hdf5_reader._Process()
    monkeypatch.setattr(hdf5_reader, "_idle", [started])
    os.kill(started._child.pid, number)
    assert refused(path).kind == kind
    assert describe_hdf5(path).attributes["number"] == 3
    end_processes()


def vanish(path: Path) -> None:
    path.unlink()


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def lose_the_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (vanish, "missing", "no such file"),
        (become_a_folder, "no file", "a folder"),
        (become_a_pipe, "no file", "a pipe"),
        (lose_the_end, "cut short", "bytes"),
        (lambda path: path.write_bytes(b""), "not HDF5", "empty"),
        (lambda path: path.write_bytes(b"text" * 900), "not HDF5", "not an HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:8] + bytes(4000)), "damaged", ""),
    ],
)
def test_kinds_of_problems_are_told_apart(path: Path, spoil: Callable[[Path], object], kind: str, said: str) -> None:
    spoil(path)
    found = refused(path)
    assert (found.kind, said in found.message) == (kind, True), found
    assert found.hint


def test_what_the_system_refuses_is_not_called_damaged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slpd_toolkit.core import hdf5_process

    for number, kind in ((13, "no permission"), (5, "not readable now"), (116, "not readable now")):
        assert hdf5_process._os_problem(OSError(number, "refused"))[0] == kind
    assert hdf5_process._os_problem(OSError("Unable to open (file read failed: errno = 5, error ...)")) == (
        "not readable now",
        "Input/output error",
    )
    assert hdf5_process._os_problem(OSError("Unable to open (bad object header)"))[0] == "damaged"


def test_a_file_that_is_written_elsewhere_is_in_use_for_those_who_ask(path: Path) -> None:
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Hdf5Error) as caught:
            describe_hdf5(path, refuse_locked=True)
        assert caught.value.kind == "in use"
        assert "closed" in caught.value.hint
        assert describe_hdf5(path).names  # its parts can be proven whole in other ways
    assert describe_hdf5(path, refuse_locked=True).names


def external(file: h5py.File, other: str) -> None:
    file.create_dataset("x", shape=(6, 2), dtype="<i8", external=[(other, 0, 96)])


def virtual(file: h5py.File, other: str) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(other, "plain", (4, 3))
    file.create_virtual_dataset("x", layout)


def soft(file: h5py.File, other: str) -> None:
    file["x"] = h5py.SoftLink("/plain")


def linked(file: h5py.File, other: str) -> None:
    file["x"] = h5py.ExternalLink(other, "plain")


@pytest.mark.parametrize("link", [external, virtual, soft, linked])
def test_values_of_other_files_are_refused(path: Path, link: Callable[[h5py.File, str], None]) -> None:
    other = path.with_name("other.h5")
    other.write_bytes(path.read_bytes())
    with h5py.File(path, "r+") as file:
        link(file, str(other))
    found = describe_hdf5(path)
    assert found.others.get("x") == "link" or found.datasets["x"].outside
    assert refused(path, "x").kind == "outside"


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": (10**8, 16), "chunks": (1024, 16)},
        {"shape": (10**12,), "chunks": (1 << 20,)},
        {"shape": (1 << 26,), "chunks": (1 << 20,), "compression": "gzip", "fillvalue": 1},
        {"shape": (300,)},
    ],
)
def test_claims_that_the_file_does_not_bear_out_are_refused(path: Path, settings: dict[str, Any]) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", dtype="f4", **settings)
    found = refused(path, "x")
    assert found.kind == "damaged"
    assert "'x' claims" in found.message


@pytest.mark.slow
def test_a_bomb_of_compressed_zeros_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", data=np.zeros(1 << 26, "f4"), chunks=(1 << 20,), compression="gzip")
    assert "but the file holds" in refused(path, "x").message


def test_chunks_that_were_never_written_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", shape=(40, 3), chunks=(10, 3), compression="gzip", dtype="f4")[:10] = 1
    assert "1 of 4 chunks" in refused(path, "x").message


def test_the_time_limit_starts_again_after_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(hdf5_process, "_limit", limits.append)
    monkeypatch.setattr(hdf5_process, "_MEMBERS_AT_ONCE", 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(11):
            file[f"slide{number:02}"] = np.ones(3)
        _, members = hdf5_process._describe(file)
    assert len(members) == 11
    assert limits == [hdf5_process.SECONDS] * 3
