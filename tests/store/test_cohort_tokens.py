from __future__ import annotations

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from tests.token_factory import LENGTHS, without_digest, write_cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cohort(cache: Path) -> Iterator[CohortTokens]:
    tokens = CohortTokens(TokenStore.open(cache))
    yield tokens
    tokens.close()


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[tuple[Path, CohortTokens]]:
    """An open cohort, and the file of its second slide (regions 9 to 11)."""
    write_cache(tmp_path, LENGTHS)
    tokens = CohortTokens(TokenStore.open(tmp_path))
    yield tmp_path / "slide001.h5", tokens
    tokens.close()


def every_region(cache: Path) -> np.ndarray:
    return np.concatenate([TokenFile.open(path).tokens for path in sorted(cache.glob("*.h5"))])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.integers(0, sum(LENGTHS) - 1), max_size=40))
def test_any_regions_in_any_order_with_repeats_are_those_of_the_files(
    cache: Path, cohort: CohortTokens, regions: list[int]
) -> None:
    found = cohort.read(np.array(regions, np.int64))
    assert found.dtype == torch.float16
    np.testing.assert_array_equal(found.numpy(), every_region(cache)[regions])


def test_regions_are_numbered_slide_after_slide(tmp_path: Path) -> None:
    """A slide without regions takes no number."""
    tokens = CohortTokens(TokenStore.open(write_cache(tmp_path, (2, 0, 3))))
    assert len(tokens) == 5
    assert tokens.slide_of_region.tolist() == [0, 0, 2, 2, 2]
    np.testing.assert_array_equal(tokens.read(np.arange(5)).numpy(), every_region(tmp_path))


@pytest.mark.slow
def test_more_files_than_the_system_allows_open(tmp_path: Path) -> None:
    write_cache(tmp_path, (2,) * 60, grid=2, dim=2)
    before, wanted = resource.getrlimit(resource.RLIMIT_NOFILE), every_region(tmp_path)
    tokens = CohortTokens(TokenStore.open(tmp_path))
    highest = os.dup(0)
    os.close(highest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, before[1]))
        order = np.random.default_rng(0).permutation(120)
        np.testing.assert_array_equal(tokens.read(order).numpy(), wanted[order])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        tokens.close()


def test_eight_threads_at_once(cache: Path, cohort: CohortTokens) -> None:
    wanted = every_region(cache)

    def hammer(seed: int) -> bool:
        generator = np.random.default_rng(seed)
        orders = [generator.integers(len(cohort), size=20) for _ in range(40)]
        return all(np.array_equal(cohort.read(order).numpy(), wanted[order]) for order in orders)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(hammer, range(8)))


def test_a_file_cut_short_after_opening_is_named(damaged: tuple[Path, CohortTokens]) -> None:
    path, tokens = damaged
    os.truncate(path, TokenFile.open(path).tokens_offset + 2 * 576 + 476)
    tokens.read(np.array([0, 9, 10, 12]))
    with pytest.raises(CacheError, match=r"slide001\.h5 is truncated: region 2 has 476 of 576 bytes"):
        tokens.read(np.array([0, 11]))


def test_a_file_that_vanished_is_named_and_an_open_one_still_read(damaged: tuple[Path, CohortTokens]) -> None:
    path, tokens = damaged
    open_one = path.with_name("slide002.h5")
    tokens.read(np.array([12]))
    path.unlink()
    open_one.unlink()
    tokens.read(np.array([12]))
    with pytest.raises(CacheError, match=r"slide001\.h5 can no longer be read .*No such file"):
        tokens.read(np.array([9]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tokens_that_are_no_numbers_are_named(damaged: tuple[Path, CohortTokens], value: float) -> None:
    path, tokens = damaged
    with h5py.File(path, "r+") as file:
        file["tokens"][1, 5, 5, 7] = value
        without_digest(file)
    tokens = CohortTokens(TokenStore.open(path.parent))
    tokens.read(np.array([9, 11]))
    with pytest.raises(CacheError, match=r"slide001\.h5: region 1 contains tokens that are NaN or infinite"):
        tokens.read(np.array([11, 10, 0]))


READ_ALL = """
import resource, sys
import numpy as np
from pathlib import Path
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = CohortTokens(TokenStore.open(Path(sys.argv[1])))
order = np.random.default_rng(0).permutation(len(tokens))
for part in np.array_split(order, max(1, len(order) // 64)):
    tokens.read(part)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cache(tmp_path: Path) -> None:
    """Reading 3 GiB of tokens (sparse files), 64 regions at a time, takes only a few MiB."""
    for path in sorted(write_cache(tmp_path, (1,) * 4, grid=16, dim=384).glob("*.h5")):
        regions = 4096
        with h5py.File(path, "r+") as file:
            row = file["tokens"].id.get_offset()
            assert row > 0
            del file["tokens"], file["coords"], file["tissue"]
            file.create_dataset("tokens", (regions, 16, 16, 384), "<f2", fillvalue=None)
            file["coords"] = np.zeros((regions, 2), np.int64)
            file["tissue"] = np.ones((regions, 16, 16), np.float16)
            file["tokens"][regions - 1] = 1
            without_digest(file)
    grown = subprocess.run([sys.executable, "-c", READ_ALL, tmp_path], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 200
