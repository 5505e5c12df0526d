"""Checks of tokens compared with numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.store import schema
from slpd_toolkit.store.token_file import TokenStore
from tests.token_factory import write_cache

if TYPE_CHECKING:
    from pathlib import Path


def test_every_float16_is_finite_where_numpy_says_so() -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(schema.TOKEN_DTYPE)
    finite = np.isfinite(numbers)
    assert schema.all_finite(numbers[finite])
    assert not any(schema.all_finite(number[None]) for number in numbers[~finite])


@pytest.mark.parametrize("shape", [(0, 8), (3, 8)])
def test_one_number_among_others_is_seen_in_arrays_of_any_order(shape: tuple[int, int]) -> None:
    numbers = np.ones(shape, schema.TOKEN_DTYPE).T
    assert schema.all_finite(numbers)
    if numbers.size:
        numbers[-1, -1] = -np.inf
        assert not schema.all_finite(numbers)


@dataclass(frozen=True, kw_only=True)
class LaterSelection(RegionSelectionConfig):
    """With a setting that some later version may have."""

    texture_od: float = 0.016


def test_a_cache_never_mixes_settings_of_the_selection_of_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are added later, without a change of the schema; older recipes have their default."""
    monkeypatch.setattr(schema, "RegionSelectionConfig", LaterSelection)
    meta = TokenStore.open(write_cache(tmp_path / "cache", [1], grid=2)).meta
    old = replace(meta, recipe='{"min_tissue": 0.1, "max_upsample": 1.6}')
    for recipe, said in {
        '{"max_upsample": 2.0, "allow_missing_pixels": true}': "",
        '{"texture_od": 0.016}': "",
        '{"texture_od": 0.02}': "texture_od: 0.016 there, 0.02 here",
    }.items():
        assert schema.run_disagreement(old, replace(meta, recipe=recipe)) == said
        assert not schema.run_disagreement(old, replace(meta, recipe=recipe, source="TRIDENT"))
    assert "min_tissue" in schema.run_disagreement(old, replace(meta, min_tissue=0.7))
