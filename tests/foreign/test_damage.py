"""Damaged feature files: refused, or read as numbers of the right shape; never a hang or a crash."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.foreign.features import Settings
from slpd_toolkit.foreign.format import SourceSlide
from slpd_toolkit.foreign.formats import trident
from slpd_toolkit.foreign.tensors import read_arrays
from tests.foreign.factory import write_trident
from tests.mutation import mutants

if TYPE_CHECKING:
    from pathlib import Path

FEATURES = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
COORDS = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2) * 512


@pytest.mark.parametrize("count", [25, pytest.param(600, marks=pytest.mark.slow)])
def test_mutants_of_hdf5_features_end(tmp_path: Path, count: int) -> None:
    """Other tools' files have no checksums: other numbers cannot be noticed, other shapes can."""
    path = tmp_path / "a.h5"
    write_trident(path, FEATURES, COORDS)
    with h5py.File(path, "r+") as file:
        file.attrs["text"] = "of any length, in the heap that has no checksum"
    whole, until = path.read_bytes(), time.monotonic() + 240
    for mutant in mutants(whole, count, seed=5):
        path.write_bytes(mutant)
        try:
            found = trident.read(SourceSlide("a", (path,)), Settings(encoder="any"))
            rows = found.features.take(np.arange(found.features.shape[0]))
        except SlideError as error:
            assert str(path) in error.message  # noqa: PT017 - most mutants are refused, not all
            continue
        assert rows.shape == found.features.shape
        assert rows.nbytes <= len(mutant) * 100
        if time.monotonic() > until:
            break


@pytest.mark.parametrize("count", [50, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mutants_of_npz_are_refused_or_equal(tmp_path: Path, save: object, count: int) -> None:
    path = tmp_path / "a.npz"
    wanted = {"x": COORDS[:, 0], "y": COORDS[:, 1].astype(np.float32)}
    save(path, **wanted)  # type: ignore[operator]
    whole, refused = path.read_bytes(), 0
    for mutant in mutants(whole, count, seed=6):
        path.write_bytes(mutant)
        try:
            found = read_arrays(path)
        except SlideError:
            refused += 1
            continue
        for name in found.keys() & wanted.keys():  # names stand in the directory, which has no checksum
            np.testing.assert_array_equal(found[name], wanted[name])
    assert refused > count // 3
