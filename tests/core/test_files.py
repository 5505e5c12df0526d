from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core import files
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import (
    atomic_path,
    claim_folder,
    fingerprint,
    is_safe_name,
    read_json,
    remove_leftovers,
    remove_leftovers_of,
    require_regular,
    sha256,
    write_csv,
    write_text,
)

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.mark.parametrize("name", ["a", "TCGA-AA-3500-01Z-00-DX1.1c2", "a_b.c-D", "0", "a.."])
def test_a_safe_name_may_become_a_file(name: str) -> None:
    assert is_safe_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\n", "ä", "a\0", "a*", "a:b", "~"])
def test_a_name_that_leads_elsewhere_is_not_safe(name: str) -> None:
    assert not is_safe_name(name)


def test_a_file_gets_its_name_after_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as partial:
        assert partial.parent == tmp_path
        assert partial.name.startswith(".a.txt.")
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise kind

    with pytest.raises(kind):
        write()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_leftovers_of_one_file_go_and_those_of_others_stay(tmp_path: Path) -> None:
    other = ".a.h5.b.h5.abcdefgh.tmp"  # of the slide "a.h5.b", which is being written
    names = [".a.h5.abcdefgh.tmp", ".a.h5.12_45678.tmp", other, ".b.h5.abcdefgh.tmp", ".a.h5.tmp", "a.h5"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.h5")
    assert {entry.name for entry in tmp_path.iterdir()} == set(names[2:])


def test_leftovers_of_many_files_go_at_once(tmp_path: Path) -> None:
    others = [".a.h5.b.h5.abcdefgh.tmp", ".c.h5.abcdefgh.tmp", ".a.h5.tmp", "a.h5", "..tmp", ".tmp"]
    for name in [".a.h5.abcdefgh.tmp", ".a.h5.12_45678.tmp", ".b.h5.abcdefgh.tmp", *others]:
        (tmp_path / name).touch()
    remove_leftovers_of(tmp_path, {"a.h5", "b.h5"})
    assert {entry.name for entry in tmp_path.iterdir()} == set(others)
    remove_leftovers_of(tmp_path / "absent", {"a.h5"})


def test_leftovers_may_have_to_be_old(tmp_path: Path) -> None:
    for name, seconds in {".a.h5.abcdefgh.tmp": 0, ".a.h5.12345678.tmp": 4000}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)
    remove_leftovers(tmp_path / "a.h5", min_age_s=3600)
    assert [entry.name for entry in tmp_path.iterdir()] == [".a.h5.abcdefgh.tmp"]


def test_what_atomic_path_leaves_is_what_remove_leftovers_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_path(tmp_path / "a.h5") as partial:
        name = partial.name
    (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.h5")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_csv_cells_survive(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["x", "y"], [{"x": 'a,"b"\nc', "y": "ü"}, {"x": 1, "y": ""}])
    assert (tmp_path / "a.csv").read_bytes() == 'x,y\n"a,""b""\nc",ü\n1,\n'.encode()


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * MIB)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * MIB).hexdigest()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB])
def test_a_fingerprint_sees_size_beginning_and_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    content = bytearray(size)
    path.write_bytes(content)
    prints = {fingerprint(path)}
    assert prints == {fingerprint(path)}
    assert next(iter(prints)).startswith(f"{size}-")
    path.write_bytes(content + b"\0")
    prints.add(fingerprint(path))
    for position in {0, min(size, MIB) - 1, size - 1, max(0, size - MIB)} if size else ():
        changed = content.copy()
        changed[position] = 1
        path.write_bytes(changed)
        assert fingerprint(path) not in prints
    assert len(prints) == 2


def test_a_fingerprint_reads_two_mebibytes_of_any_file(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as handle:
        handle.truncate(1 << 35)
    assert fingerprint(path).startswith(f"{1 << 35}-")
    assert files._FINGERPRINT_BYTES == MIB


def test_a_folder_is_claimed_before_the_work(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    claim_folder(folder, ("m.json",))
    (folder / ".m.json.abcd1234.tmp").touch()
    (folder / ".other.json.abcd1234.tmp").touch()
    (folder / "m.json").touch()
    claim_folder(folder, ("m.json",))
    assert sorted(path.name for path in folder.iterdir()) == [".other.json.abcd1234.tmp", "m.json"]
    for taken in (folder / "m.json", folder / "m.json" / "deeper"):
        with pytest.raises(
            UsageError, match=r"--out: .* cannot be created: it, or one of its parents, is an existing file"
        ):
            claim_folder(taken, ())
    (folder / "n.json").mkdir()
    with pytest.raises(UsageError, match=r"--out: .*n\.json is a folder, but a file with this name must be written"):
        claim_folder(folder, ("m.json", "n.json"))


def test_a_folder_that_is_read_only_is_not_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:  # not by permissions: root may write anywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UsageError, match=r"--out: .* cannot be written to \(\[Errno 13\] Permission denied\)"):
        claim_folder(tmp_path, ())


@pytest.mark.parametrize(("content", "said"), [("[" * 100_000, "too deeply"), ("{", "Expecting"), ("\xff", "utf-8")])
def test_json_that_cannot_be_read_is_a_value_error(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "a.json")


def test_a_large_file_that_is_nearly_all_holes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(b"\1" * (17 << 20))
    os.truncate(path, 1 << 30)
    require_regular(path)
    os.truncate(path, (1 << 30) + 1)
    require_regular(path)  # more than 1/64 was written
    os.truncate(path, 1 << 31)
    with pytest.raises(OSError, match="almost none of its 2,147,483,648 bytes were ever written"):
        require_regular(path)


def test_a_copy_onto_a_full_disk_names_the_file_and_not_its_source(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"

    def copy(number: int) -> None:
        with atomic_path(target) as partial:
            raise OSError(number, os.strerror(number), str(source), None, str(partial))

    with pytest.raises(OSError, match=rf"No space left on device: '{target}'$"):
        copy(errno.ENOSPC)
    with pytest.raises(OSError, match=f"Input/output error: '{source}' -> "):
        copy(errno.EIO)
