"""Patches without tokens: in a file, in a cache, and in training."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.store import schema
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from slpd_toolkit.store.writer import TokenWriter
from tests.cohorts import token_meta
from tests.token_factory import LENGTHS, without_digest

if TYPE_CHECKING:
    from pathlib import Path

REGIONS, GRID, WIDTH = 4, 4, 8
ROWS, COLUMNS = (axis.ravel() for axis in np.indices((GRID, GRID)))


def draw_present() -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Draw presence: the second region has no token, the third has all."""
    present = np.random.default_rng(0).random((REGIONS, GRID, GRID)) < 0.6
    present[1], present[2] = False, True
    return present


def write(path: Path, present: np.ndarray[Any, Any] | None, *, regions: int = REGIONS) -> np.ndarray[Any, Any]:
    """Write a file in two parts per region; return the written tokens, with zeros elsewhere."""
    tokens = np.random.default_rng(1).standard_normal((regions, GRID, GRID, WIDTH)).astype(np.float16)
    coords = np.arange(2 * regions, dtype=np.int64).reshape(regions, 2)
    with TokenWriter(path, token_meta(), coords, np.ones((regions, GRID, GRID)), present) as writer:
        for region in range(regions):
            there = np.ones(GRID**2, bool) if present is None else present[region].ravel()
            for half in (there & (COLUMNS < 2), there & (COLUMNS >= 2)):
                if half.any():
                    writer.put(region, ROWS[half], COLUMNS[half], tokens[region].reshape(-1, WIDTH)[half])
    return tokens if present is None else tokens * present[..., None]


def test_missing_patches_are_zeros_without_tissue_and_the_file_says_which(tmp_path: Path) -> None:
    present = draw_present()
    expected = write(tmp_path / "s0.h5", present)
    file = TokenFile.open(tmp_path / "s0.h5")
    assert file.present is not None
    assert file.present.dtype == np.bool_
    np.testing.assert_array_equal(file.present, present)
    np.testing.assert_array_equal(file.tokens, expected)
    np.testing.assert_array_equal(file.tissue, present.astype(np.float16))
    assert file.missing_patches == (~present).sum()
    with h5py.File(tmp_path / "s0.h5") as plain:
        assert sorted(plain) == ["checksums", "coords", "present", "tissue", "tokens"]
        assert (plain["present"].shape, plain["present"].dtype) == ((REGIONS, GRID, GRID), np.dtype(bool))
        assert plain["present"].attrs["unit"] == b"whether the patch has a token; the others are zeros"
    assert schema.PRESENT == "present"


def test_without_gaps_the_file_is_what_it_was(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", None)
    write(tmp_path / "b.h5", np.ones((REGIONS, GRID, GRID), bool))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    file = TokenFile.open(tmp_path / "a.h5")
    assert file.present is None
    assert file.missing_patches == 0
    write(tmp_path / "c.h5", np.ones((0, GRID, GRID), bool), regions=0)
    assert TokenFile.open(tmp_path / "c.h5").present is None


def test_a_present_patch_must_come_and_a_missing_one_must_not(tmp_path: Path) -> None:
    present = draw_present()
    present[0, 0], present[0, 1] = True, False
    writer = TokenWriter(tmp_path / "s0.h5", token_meta(), np.zeros((REGIONS, 2), np.int64), present * 1.0, present)
    with pytest.raises(ValueError, match="region 0 received tokens for patches that are not present"):
        writer.put(0, ROWS[:5], COLUMNS[:5], np.ones((5, WIDTH)))
    writer.put(0, ROWS[:4], COLUMNS[:4], np.ones((4, WIDTH)))
    with pytest.raises(CacheError, match="3 of 4 regions lack tokens"):
        writer.commit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.ones((REGIONS, GRID, GRID + 1), bool), r"present \(4, 4, 5\) bool, expected \(4, 4, 4\) bool"),
        (np.ones((REGIONS - 1, GRID, GRID), bool), r"present \(3, 4, 4\) bool, expected"),
        (np.ones((REGIONS, GRID, GRID), np.uint8), r"present \(4, 4, 4\) uint8, expected"),
        (np.float32(1), r"present \(\) float32, expected"),
        ("text", r"s0\.h5: .* present \(\) text, expected"),
        (None, r"s0\.h5 cannot be read as a token file"),
    ],
)
def test_a_damaged_or_misshapen_mask_is_a_cache_error(tmp_path: Path, stored: Any, said: str) -> None:
    write(tmp_path / "s0.h5", draw_present())
    with h5py.File(tmp_path / "s0.h5", "r+") as file:
        del file["present"]
        if stored is None:
            file.create_group("present")
        else:
            file["present"] = stored
    with pytest.raises(CacheError, match=said):
        TokenFile.open(tmp_path / "s0.h5")


def test_a_byte_that_is_neither_true_nor_false_is_a_cache_error(tmp_path: Path) -> None:
    write(tmp_path / "s0.h5", draw_present())
    with h5py.File(tmp_path / "s0.h5") as file:
        offset = file["present"].id.get_offset()
    damaged = bytearray((tmp_path / "s0.h5").read_bytes())
    damaged[offset + 3] = 7
    (tmp_path / "s0.h5").write_bytes(damaged)
    with pytest.raises(CacheError, match=r"s0\.h5"):
        TokenFile.open(tmp_path / "s0.h5")


def test_a_cohort_tells_the_presence_of_any_regions(cache: Path, gappy_cache: Path, tmp_path: Path) -> None:
    store = TokenStore.open(gappy_cache)
    assert store.has_gaps
    assert store.files[0].present is None
    tokens = CohortTokens(store)
    whole = [np.ones((LENGTHS[0], 6, 6), bool), *(slide.present for slide in store.files[1:] if len(slide))]
    wanted = np.concatenate([part for part in whole if part is not None])
    order = np.random.default_rng(0).permutation(len(tokens))[:17]
    found = tokens.present(order)
    assert found is not None
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found.numpy(), wanted[order])
    assert (tokens.read(order).numpy()[~wanted[order]] == 0).all()
    tokens.close()
    full = TokenStore.open(cache)
    assert not full.has_gaps
    assert CohortTokens(full).present(order) is None
    all_there = shutil.copytree(cache, tmp_path / "all")
    with h5py.File(all_there / "slide000.h5", "r+") as file:
        file["present"] = np.ones((LENGTHS[0], 6, 6), bool)
        without_digest(file)
    assert not TokenStore.open(all_there).has_gaps
