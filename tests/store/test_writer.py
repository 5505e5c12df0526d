from __future__ import annotations

import os
import resource
import stat
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.store import layout, schema
from slpd_toolkit.store.token_file import TokenFile
from slpd_toolkit.store.writer import TokenWriter
from tests.cohorts import token_meta, write_token_file

if TYPE_CHECKING:
    from pathlib import Path

GRID, WIDTH = 4, 8
ROWS, COLUMNS = (axis.ravel() for axis in np.indices((GRID, GRID)))


def writer(path: Path, regions: int = 2) -> TokenWriter:
    coords = np.arange(2 * regions, dtype=np.int64).reshape(regions, 2)
    return TokenWriter(path, token_meta(), coords, np.zeros((regions, GRID, GRID)))


def tokens(seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((GRID * GRID, WIDTH)).astype(np.float32)


def test_the_file_is_the_contract(tmp_path: Path) -> None:
    """Read with h5py only, as by any other tool."""
    expected = write_token_file(tmp_path / "s0.h5", regions=3)
    with h5py.File(tmp_path / "s0.h5") as file:
        assert sorted(file) == ["checksums", "coords", "tissue", "tokens"]
        assert file["tokens"].shape == (3, 4, 4, 8)
        assert file["tokens"].dtype == np.dtype("<f2")
        assert file["tokens"].chunks is None
        assert file["tokens"].compression is None
        assert file["coords"].dtype == np.dtype("<i8")
        assert file["coords"].shape == (3, 2)
        assert file["tissue"].dtype == np.dtype("<f2")
        assert file["tissue"].shape == (3, 4, 4)
        assert np.array_equal(file["tokens"][...], expected)
        assert file["coords"][...].tolist() == [[0, 512], [1024, 1536], [2048, 2560]]
        attributes = dict(file.attrs)
    assert (attributes.pop("schema"), attributes.pop("schema_version")) == (b"slpd-tokens", 2)
    assert len(attributes.pop("digest")) == 32
    meta = vars(token_meta())
    del meta["mask"], meta["stain"]  # written only where a mask was used, and in the views of other stains
    assert attributes.keys() == meta.keys()
    texts = {name: value.encode() for name, value in meta.items() if isinstance(value, str)}
    assert all(np.array_equal(attributes[name], value) for name, value in (meta | texts).items())


@pytest.mark.parametrize("regions", [1, 3, 200])
def test_the_tokens_are_one_run_of_bytes_at_a_round_offset(tmp_path: Path, regions: int) -> None:
    expected = write_token_file(tmp_path / "s0.h5", regions=regions)
    with h5py.File(tmp_path / "s0.h5") as file:
        offset = file["tokens"].id.get_offset()
    assert offset % 64 == 0
    mapped = np.memmap(tmp_path / "s0.h5", "<f2", "r", offset, (regions, 4, 4, 8))
    assert np.array_equal(mapped, expected)


def test_tokens_may_come_in_any_order_and_in_any_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    expected = rng.standard_normal((3, GRID, GRID, WIDTH)).astype(np.float16)
    with writer(tmp_path / "s0.h5", regions=3) as out:
        places = rng.permutation(3 * GRID * GRID)
        for part in np.array_split(places, 11):
            for region in range(3):
                cells = part[part // (GRID * GRID) == region] % (GRID * GRID)
                rows, columns = np.divmod(cells, GRID)
                out.put(region, rows, columns, expected[region, rows, columns].astype(np.float32))
        assert out.complete
    assert np.array_equal(TokenFile.open(tmp_path / "s0.h5").tokens, expected)


def test_a_slide_without_regions_is_a_file_without_tokens(tmp_path: Path) -> None:
    with writer(tmp_path / "s0.h5", regions=0) as out:
        assert out.complete
    file = TokenFile.open(tmp_path / "s0.h5")
    assert len(file) == 0
    assert file.tokens.shape == (0, GRID, GRID, WIDTH)
    assert file.coords.shape == (0, 2)


def test_the_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "s0.h5"
    with writer(path) as out:
        out.put(0, ROWS, COLUMNS, tokens())
        assert not path.exists()
        assert not out.complete
        (hidden,) = tmp_path.iterdir()
        assert hidden.name.startswith(".s0.h5.")
        out.put(1, ROWS, COLUMNS, tokens(1))
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s0.h5"]


def test_what_is_named_was_synced_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power loss cannot be tested, so the order of the calls is checked instead."""
    path, calls = tmp_path / "s0.h5", list[str]()
    sync, replace = os.fsync, type(path).replace

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append("sync folder" if stat.S_ISDIR(status.st_mode) else f"sync {status.st_size} bytes")
        sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(type(path), "replace", rename)
    with writer(path) as out:
        out.put(0, ROWS, COLUMNS, tokens())
        out.put(1, ROWS, COLUMNS, tokens())
        assert calls == []
    assert calls == [f"sync {path.stat().st_size} bytes", "replace", "sync folder"]


def test_an_exception_leaves_nothing_and_an_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "s0.h5"
    path.write_text("the file of an earlier run")

    def stopped() -> None:
        with writer(path) as out:
            out.put(0, ROWS, COLUMNS, tokens())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    out = writer(path)
    out.abort()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s0.h5"]
    assert path.read_text() == "the file of an earlier run"


def test_a_file_with_missing_tokens_cannot_be_committed(tmp_path: Path) -> None:
    out = writer(tmp_path / "s0.h5")
    out.put(0, ROWS, COLUMNS, tokens())
    out.put(1, ROWS[1:], COLUMNS[1:], tokens()[1:])
    with pytest.raises(CacheError, match="1 of 2 regions lacks tokens"):
        out.commit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65_520.0, -1e30])
def test_tokens_that_float16_cannot_hold_are_refused(tmp_path: Path, bad: float) -> None:
    values = tokens()
    values[3, 5] = bad
    out = writer(tmp_path / "s0.h5")
    out.put(0, ROWS, COLUMNS, np.clip(tokens() * 1e6, -65_504, 65_504))
    with pytest.raises(
        CacheError, match=r"s0\.h5: region 1 has tokens that are NaN, infinite or beyond float16"
    ) as caught:
        out.put(1, ROWS, COLUMNS, values)
    out.abort()
    assert "--precision" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_cache_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"s0\.h5 cannot be written") as caught:
        writer(tmp_path / "absent" / "s0.h5")
    assert "permissions" in caught.value.hint


@pytest.mark.parametrize("limit", [0, 1000, 3000, 3500])
def test_a_full_disk_is_a_cache_error_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    write_token_file(tmp_path / "whole.h5", regions=2)
    size = (tmp_path / "whole.h5").stat().st_size
    assert limit < size

    def write() -> None:
        with writer(tmp_path / "s0.h5") as out:
            out.put(0, ROWS, COLUMNS, tokens())
            out.put(1, ROWS, COLUMNS, tokens())

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CacheError, match="cannot be written") as caught:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free space" in caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole.h5"]


def test_room_for_gigabytes_costs_no_memory() -> None:
    regions = 20_000
    coords = np.zeros((regions, 2), np.int64)
    plan = layout.lay_out(
        token_meta(region_px=1024, embedding_dim=1536), coords, np.zeros((regions, 16, 16), np.float16)
    )
    tokens_bytes = regions * 16 * 16 * 1536 * 2
    assert plan.size >= plan.offsets["tokens"] + tokens_bytes
    assert sum(map(len, plan.parts.values())) < coords.nbytes + regions * 16 * 16 * 2 + 100_000


def test_the_names_that_others_rely_on() -> None:
    """Changing one of these breaks existing caches and requires a new version."""
    assert (schema.SCHEMA, schema.VERSION, schema.SUFFIX) == ("slpd-tokens", 2, ".h5")
    assert (schema.TOKENS, schema.COORDS, schema.TISSUE) == ("tokens", "coords", "tissue")


def test_patches_may_turn_out_to_have_no_token(tmp_path: Path) -> None:
    """Before, between and after the tokens of their region; one region has no token."""
    meta = token_meta(slide_id="s")
    coords, tissue = np.zeros((3, 2), np.int64), np.full((3, 4, 4), 0.5)
    rows, columns = (axis.ravel() for axis in np.indices((4, 4)))
    tokens = np.random.default_rng(0).standard_normal((3, 16, 8)).astype(np.float32)
    lost = np.zeros((3, 4, 4), np.bool_)
    lost[0].flat[[0, 9, 15]] = lost[1] = True
    with TokenWriter(tmp_path / "s.h5", meta, coords, tissue, may_drop=True) as writer:
        for region in (2, 0, 1):
            for patch in range(16):
                part = slice(patch, patch + 1)
                if lost[region].flat[patch]:
                    writer.drop(region, rows[part], columns[part])
                else:
                    writer.put(region, rows[part], columns[part], tokens[region, part])
    file = TokenFile.open(tmp_path / "s.h5")
    assert file.present is not None
    assert (file.present == ~lost).all()
    assert (file.tokens[lost] == 0).all()
    assert (file.tokens[~lost] == tokens.reshape(3, 4, 4, 8)[~lost].astype(np.float16)).all()
    assert (file.tissue == np.where(lost, 0, 0.5)).all()


def test_features_that_become_zero_are_told_and_a_few_by_chance_are_not() -> None:
    features = np.random.default_rng(0).standard_normal((50, 400)).astype(np.float32)
    features[:, ::3] = 0  # as a ReLU leaves them
    features[7, [1, 4]] = 1e-9
    assert not schema.as_tokens(features)[1]
    features[7] *= 1e-8
    assert "too small for float16" in schema.as_tokens(features)[1]
    features[8, 0] = 1e9
    assert "beyond float16" in schema.as_tokens(features)[1]


def test_one_feature_of_a_short_token_may_become_zero_but_not_all() -> None:
    features = np.ones((5, 8), np.float32)
    features[2, 3] = 1e-9  # 1 of 8 is more than any small share
    assert not schema.as_tokens(features)[1]
    features[2, :4] = 1e-9
    assert "too small for float16" in schema.as_tokens(features)[1]
    assert "too small for float16" in schema.as_tokens(np.full((1, 2), 1e-9, np.float32))[1]
