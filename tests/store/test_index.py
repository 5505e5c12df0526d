from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import h5py
import pytest

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.store import index
from slpd_toolkit.store.token_file import TokenStore, open_token_files, token_paths
from tests.token_factory import without_digest, write_cache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.store.header import Header

COUNT = 40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is large enough for an index, whose files can be indexed immediately."""
    monkeypatch.setattr(index, "_SETTLED_S", 0.0)
    return write_cache(tmp_path / "cache", [number % 4 for number in range(COUNT)], grid=2, dim=3, gaps=0.3)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the files whose header is read from the file itself."""
    names = list[str]()
    read = index._read_all

    def note(paths: Sequence[Path]) -> list[Header | CacheError]:
        names.extend(path.name for path in paths)
        return read(paths)

    monkeypatch.setattr(index, "_read_all", note)
    return names


def contents(store: TokenStore) -> list[Any]:
    present = [None if file.present is None else file.present.tolist() for file in store.files]
    checksums = [None if file.header.checksums is None else file.header.checksums.tolist() for file in store.files]
    return [
        [file.meta for file in store.files],
        [file.coords.tolist() for file in store.files],
        [file.tokens.tolist() for file in store.files],
        [file.tissue.tolist() for file in store.files],
        [(file.missing_patches, file.header.digest, file.header.stamp) for file in store.files],
        present,
        checksums,
    ]


@pytest.mark.slow
def test_the_second_opening_reads_the_index_and_finds_the_same(folder: Path, opened: list[str]) -> None:
    first = contents(TokenStore.open(folder))
    assert len(opened) == COUNT
    assert (folder / ".index").exists()
    assert len(token_paths(folder)) == COUNT
    opened.clear()
    second = TokenStore.open(folder)
    assert opened == []
    assert contents(second) == first
    assert {name: type(value) for name, value in vars(second.meta).items()} == {
        name: type(value) for name, value in vars(first[0][0]).items()
    }


@pytest.mark.slow
def test_a_changed_file_is_read_again(folder: Path, opened: list[str]) -> None:
    paths = token_paths(folder)
    TokenStore.open(folder)
    opened.clear()
    status = paths[3].stat()
    damaged = bytearray(paths[3].read_bytes())
    damaged[damaged.index(TokenStore.open(folder).files[3].coords.tobytes()[8:40])] ^= 1
    paths[3].write_bytes(damaged)  # of the same size
    os.utime(paths[3], ns=(status.st_atime_ns, status.st_mtime_ns))  # and of the same age
    copy = paths[5].read_bytes()
    paths[5].unlink()
    paths[5].write_bytes(copy)
    paths[7].unlink()
    found = list(open_token_files(folder, token_paths(folder)))
    assert opened == [paths[3].name, paths[5].name]
    assert isinstance(found[3], CacheError)
    assert len(found) == COUNT - 1


@pytest.mark.parametrize("content", [b"", b"slpd-index 1 00 5\n{}", b"slpd-index 9 00 5\n{}", b"\xff\xfe"])
def test_a_damaged_index_is_as_none(folder: Path, opened: list[str], content: bytes) -> None:
    TokenStore.open(folder)
    (folder / ".index").write_bytes(content)
    opened.clear()
    TokenStore.open(folder)
    assert len(opened) == COUNT
    damaged = bytearray((folder / ".index").read_bytes())
    damaged[-3] ^= 1
    (folder / ".index").write_bytes(damaged)
    opened.clear()
    TokenStore.open(folder)
    assert len(opened) == COUNT


def test_a_cache_that_cannot_be_written_to_works_without(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(index, "atomic_path", refuse)
    for _ in range(2):
        assert len(TokenStore.open(folder)) == COUNT
    assert len(opened) == 2 * COUNT
    assert not (folder / ".index").exists()


def test_files_that_may_still_change_unseen_are_not_noted(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SETTLED_S", 3600.0)
    TokenStore.open(folder)
    opened.clear()
    TokenStore.open(folder)
    assert len(opened) == COUNT


def test_a_small_cache_has_no_index(tmp_path: Path) -> None:
    TokenStore.open(write_cache(tmp_path, (1, 2), grid=2, dim=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slide000.h5", "slide001.h5"]


def test_what_killed_writers_left_goes(folder: Path) -> None:
    (folder / "..index.abcdefgh.tmp").write_bytes(b"")
    TokenStore.open(folder)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".index"]


def test_unreadable_files_are_in_their_places(folder: Path) -> None:
    paths = token_paths(folder)
    paths[2].write_bytes(b"text")
    for _ in range(2):
        found = list(open_token_files(folder, paths))
        assert [isinstance(each, CacheError) for each in found] == [number == 2 for number in range(COUNT)]


@pytest.mark.slow
def test_files_that_only_the_library_can_read_are_found_too(folder: Path, opened: list[str]) -> None:
    for path in token_paths(folder)[::3]:
        with h5py.File(path, "r+") as file:
            without_digest(file)
    first = contents(TokenStore.open(folder))
    opened.clear()
    assert contents(TokenStore.open(folder)) == first
    assert opened == []
