from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slpd_toolkit.config.objective import SlidePrototypesConfig
from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.objectives.slide_prototypes import build_bank
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.prototype_file import PrototypeFile, describe_prototypes
from tests.mutation import mutants

if TYPE_CHECKING:
    from pathlib import Path


PROTOTYPES = SlidePrototypesConfig(clusters=3, min_regions=5, neighbours=2)


@pytest.fixture
def file(cache: Path) -> PrototypeFile:
    store = TokenStore.open(cache)
    slide_of_region = torch.from_numpy(CohortTokens(store).slide_of_region)
    vectors = F.normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    return describe_prototypes(store, build_bank(vectors, slide_of_region, PROTOTYPES), vectors, 17)


def test_it_is_read_as_it_was_written(file: PrototypeFile, tmp_path: Path) -> None:
    file.write(tmp_path / "prototypes.h5")
    found = PrototypeFile.read(tmp_path / "prototypes.h5")
    for item in fields(PrototypeFile):
        one, other = getattr(file, item.name), getattr(found, item.name)
        np.testing.assert_array_equal(one, other)
        if item.name not in {"slide_ids", "step"}:
            assert one.dtype == other.dtype, item.name
    assert found.step == 17


def test_rows_are_the_slides_that_have_prototypes_and_regions_the_whole_cache(file: PrototypeFile) -> None:
    assert file.slide_ids.tolist() == ["slide000", "slide002", "slide003", "slide004"]
    assert file.region_row.tolist() == [0] * 9 + [-1] * 3 + [1] * 6 + [2] * 7 + [3] * 5
    assert file.region_coords[:2].tolist() == [[0, 0], [1536, 0]]
    assert file.region_l0.tolist() == [1536] * 4
    assert np.isnan(file.region_cosine[9:12]).all()
    assert (file.region_cluster[9:12] == -1).all()
    inside = file.region_row >= 0
    assert (np.abs(file.region_cosine[inside]) <= 1 + 1e-6).all()
    for row in range(4):
        assert row not in file.neighbours[row]
        for rank, other in enumerate(file.neighbours[row]):
            matched = file.prototypes[other][file.counterpart[row, :, rank]]
            cosine = (file.prototypes[row] * matched).sum(-1).mean()
            assert file.similarity[row, rank] == pytest.approx(cosine, abs=1e-5)
            assert sorted(file.counterpart[row, :, rank]) == [0, 1, 2]
    members = np.flatnonzero(file.region_row == 1)
    counts = np.bincount(file.region_cluster[members], minlength=3)
    assert counts.sum() == 6


@pytest.mark.parametrize("damage", ["missing", "no HDF5", "another schema", "lacks an array"])
def test_a_file_that_cannot_be_used_is_named(file: PrototypeFile, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "prototypes.h5"
    file.write(path)
    if damage == "missing":
        path.unlink()
    elif damage == "no HDF5":
        path.write_bytes(b"no")
    else:
        with h5py.File(path, "r+") as stored:
            if damage == "another schema":
                stored.attrs["schema_version"] = 2
            else:
                del stored["counterpart"]
    with pytest.raises(CacheError, match=r"prototypes\.h5"):
        PrototypeFile.read(path)


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_mutants_are_refused_or_equal(file: PrototypeFile, tmp_path: Path, count: int) -> None:
    path = tmp_path / "prototypes.h5"
    file.write(path)
    whole, refused = path.read_bytes(), 0
    for mutant in mutants(whole, count, seed=3):
        path.write_bytes(mutant)
        try:
            found = PrototypeFile.read(path)
        except CacheError as error:
            refused += "prototypes.h5" in error.message
            continue
        for item in fields(PrototypeFile):
            np.testing.assert_array_equal(getattr(file, item.name), getattr(found, item.name))
    assert refused > count // 3
