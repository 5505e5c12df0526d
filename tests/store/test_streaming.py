from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.streaming import REGIONS_AT_ONCE, RegionBatch, in_parts, map_regions
from slpd_toolkit.store.token_file import TokenStore
from tests.token_factory import write_cache

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CPU = torch.device("cpu")


def test_parts_hold_every_region_once_and_fit_a_device() -> None:
    regions = np.arange(3, 2 * REGIONS_AT_ONCE + 5)
    parts = in_parts(regions)
    assert [len(part) for part in parts] == [256, 256, 2]
    np.testing.assert_array_equal(np.concatenate(parts), regions)
    assert in_parts(regions[:0]) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_parts(tmp_path: Path, workers: int) -> None:
    store = TokenStore.open(write_cache(tmp_path, (4, 3, 5)))

    def work(batch: RegionBatch) -> Tensor:
        assert batch.present is None
        return batch.tokens.float().sum(dim=(1, 2, 3)) + torch.from_numpy(batch.regions)

    parts = [np.array([11, 0]), np.array([5]), np.array([4, 3, 6])]
    with closing(CohortTokens(store)) as tokens:
        found = list(map_regions(work, tokens, parts, device=CPU, workers=workers))
    whole = np.concatenate([slide.tokens for slide in store.files]).astype(np.float32).sum(axis=(1, 2, 3))
    for part, sums in zip(parts, found, strict=True):
        np.testing.assert_allclose(sums, whole[part] + part, rtol=1e-5)


def test_a_file_that_vanishes_is_told(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path, (4, 3)))
    store.files[1].path.unlink()
    with closing(CohortTokens(store)) as tokens, pytest.raises(CacheError, match="can no longer be read"):
        list(map_regions(lambda batch: batch.tokens, tokens, [np.array([0]), np.array([5])], device=CPU, workers=1))
