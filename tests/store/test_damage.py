"""Damaged token files are rejected or have the same values; they never cause a hang, a crash or other values."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenFile, TokenStore, require_same_run
from tests.cohorts import token_meta, write_token_file
from tests.mutation import mutants
from tests.token_factory import without_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def numbers(path: Path) -> tuple[Any, ...]:
    """Return all contents of a token file, with verified tokens."""
    file = TokenFile.open(path)
    file.verify()
    present = None if file.present is None else file.present.tolist()
    return file.meta, file.coords.tolist(), file.tissue.tolist(), present, file.tokens.tolist()


def assert_refused_or_equal(path: Path, whole: bytes, wanted: tuple[Any, ...], content: bytes) -> bool:
    path.write_bytes(content)
    try:
        found = numbers(path)
    except CacheError as error:
        return path.name in error.message and bool(error.hint)
    assert found == wanted, [
        place for place in range(min(map(len, (whole, content)))) if whole[place] != content[place]
    ]
    return False


@pytest.mark.parametrize("count", [60, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutants_are_refused_or_equal(tmp_path: Path, count: int) -> None:
    path = tmp_path / "s0.h5"
    write_token_file(path, regions=3)
    whole, wanted = path.read_bytes(), numbers(path)
    until = time.monotonic() + 300
    refused = sum(
        assert_refused_or_equal(path, whole, wanted, mutant)
        for mutant in mutants(whole, count, seed=1)
        if time.monotonic() < until
    )
    assert refused > count // 3


@pytest.mark.slow
def test_mutants_of_version_1_neither_hang_nor_crash(tmp_path: Path) -> None:
    path = tmp_path / "s0.h5"
    write_token_file(path, regions=3)
    attributes = {}
    with h5py.File(path, "r+") as file:
        without_digest(file)
        attributes = {name: value.decode() for name, value in file.attrs.items() if isinstance(value, bytes)}
        file.attrs.update(attributes)  # of variable length, in the heap that has no checksum
    whole = path.read_bytes()
    assert b"GCOL" in whole
    until, refused = time.monotonic() + 120, 0
    for mutant in mutants(whole, 300, seed=2):
        path.write_bytes(mutant)
        try:
            numbers(path)
        except CacheError:
            refused += 1
        if time.monotonic() > until:
            break
    assert refused


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5", mean=(0.1, 0.2, 0.3))
    wanted = numbers(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        without_digest(file)
        file.attrs.update({name: value.decode() for name, value in file.attrs.items() if isinstance(value, bytes)})
    assert numbers(tmp_path / "a.h5") == wanted
    assert TokenFile.open(tmp_path / "a.h5").header.digest == ""
    write_token_file(tmp_path / "b.h5", 3, 0, mean=(0.1, 0.2, 0.3))
    assert len(TokenStore.open(tmp_path)) == 2


def test_replaced_tokens_are_noticed_when_they_are_read(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5", regions=4)
    with h5py.File(tmp_path / "s0.h5", "r+") as file:
        file["tokens"][2] = 1
    tokens = CohortTokens(TokenStore.open(tmp_path))
    tokens.read(np.array([0, 1, 3]))
    with pytest.raises(CacheError, match=r"s0\.h5: the tokens of region 2 do not match their checksum"):
        tokens.read(np.array([2]))
    with pytest.raises(CacheError, match="region 2"):
        TokenFile.open(tmp_path / "s0.h5").verify()


def test_the_digest_is_of_everything(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5")
    digests = {TokenFile.open(tmp_path / "s0.h5").header.digest}
    for number, changes in enumerate(({"regions": 4}, {"seed": 1}, {"mpp_l0": 0.25}, {"recipe": "{ }"}), 2):
        write_token_file(tmp_path / "s0.h5", **changes)  # type: ignore[arg-type]
        digests.add(TokenFile.open(tmp_path / "s0.h5").header.digest)
        assert len(digests) == number


IMPOSSIBLE: dict[str, Any] = {
    "slide_id": "../outside",
    "slide_width_l0": 0,
    "slide_height_l0": 10**10,
    "mpp_l0": 0.0,
    "target_mpp": float("nan"),
    "effective_mpp": float("inf"),
    "upsampling": -1.0,
    "patch_px": 2048,
    "region_px": -1,
    "region_l0": 0,
    "min_tissue": 1.5,
    "encoder_input_px": -1,
    "embedding_dim": 0,
    "mean": np.array([0.5, np.nan, 0.5]),
    "std": np.zeros(3),
    "source": "[1]",
    "encoder": 7,
    "recipe": np.arange(3),
    "precision": np.array([1.0, 2.0]),
    "slide_fingerprint": 0.5,
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_attributes_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_token_file(tmp_path / "s0.h5")
    with h5py.File(tmp_path / "s0.h5", "r+") as file:
        without_digest(file)
        file.attrs[name] = IMPOSSIBLE[name]
    with pytest.raises(CacheError, match=name) as caught:
        TokenFile.open(tmp_path / "s0.h5")
    assert "remove it" in caught.value.hint


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def replace(name: str, **settings: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **settings)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("tissue", (0, 1, 2), np.nan), "tissue contains values that are not between"),
        (put("tissue", (0, 1, 2), 1.5), "tissue contains values"),
        (put("tissue", (0, 1, 2), -0.5), "tissue contains values"),
        (put("coords", (1, 0), 10**12), "outside any possible slide"),
        (replace("coords", data=np.array([["a", "b"]] * 3, "S1")), "coords .* text"),
        (replace("coords", data=np.zeros((3, 2))), "coords .* float64, expected"),
        (replace("coords", shape=(10**8, 2), dtype="<i8", chunks=(1024, 2)), "do not match"),
        (replace("coords", shape=(3, 2), dtype="<i8", chunks=(1, 2)), "coords are not stored contiguously"),
        (replace("coords", shape=(3, 2), dtype="<i8"), "coords are not stored contiguously"),
        (replace("coords", shape=(3, 2), dtype="<i8", external=[("/etc/passwd", 0, 48)]), "stored in another file"),
    ],
)
def test_impossible_arrays_are_refused_by_name(tmp_path: Path, change: Callable[[h5py.File], None], said: str) -> None:
    write_token_file(tmp_path / "s0.h5")
    with h5py.File(tmp_path / "s0.h5", "r+") as file:
        without_digest(file)
        change(file)
    with pytest.raises(CacheError, match=said):
        TokenFile.open(tmp_path / "s0.h5")


def test_a_cache_that_cannot_be_read_takes_no_second_encoder(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5")
    wanted = token_meta()
    require_same_run(tmp_path, wanted, ())
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"its encoder is unknown\. .*a\.h5 cannot be read") as caught:
        require_same_run(tmp_path, wanted, ())
    assert "another --out" in caught.value.hint
    require_same_run(tmp_path, wanted, {"a"})  # --overwrite redoes it
    write_token_file(tmp_path / "b.h5")
    require_same_run(tmp_path, wanted, ())  # another file tells
    with pytest.raises(UsageError, match="encoder: 'random' there, 'other' here"):
        require_same_run(tmp_path, token_meta(encoder="other"), ())


def test_a_fifo_among_token_files_is_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(CacheError, match="folder, a device, a pipe or a socket"):
        TokenFile.open(tmp_path / "a.h5")
