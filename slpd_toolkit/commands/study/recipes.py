"""The recipe that fits a cohort, by its number of slides and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTO = "auto"
_LARGE_COHORT = 200
"""Slides from which the published recipe of TCGA-NSCLC is used; the published cohorts have about a thousand."""
_GRID = 16
"""Rows and columns of the regions that the published crops are made for."""
_REGIONS_OF_NSCLC, _LEAST_REGIONS, _LEAST_CLUSTERS = 32, 8, 2


def suitable_recipe(recipe: str, regions: Sequence[int], grid: int) -> tuple[str, dict[str, Any]]:
    """Return a recipe of `slpd pretrain`, and settings that override it.

    Args:
        recipe: The user's choice, returned as it is unless it is `auto`.
        regions: Number of regions of each slide to train on.
        grid: Rows and columns of tokens of a region.
    """
    if recipe != AUTO:
        return recipe, {}
    slides, total = len(regions), int(np.sum(regions))
    quartile = int(np.quantile(regions, 0.25)) if slides else 0
    more: dict[str, Any] = {} if grid == _GRID else _crops(grid)
    if slides >= _LARGE_COHORT:
        return ("nsclc" if quartile >= _REGIONS_OF_NSCLC else "brca"), more
    more["batch_size"] = _batch(total)
    if quartile < _LEAST_REGIONS:
        more["min_regions"] = max(_LEAST_CLUSTERS, quartile)
    return "small-cohort", more


def _crops(grid: int) -> dict[str, int]:
    """Return crops of the published proportions, 14 and 6 of 16 tokens."""
    return {"global_side": max(1, grid * 7 // 8), "local_side": max(1, grid * 3 // 8)}


def _batch(regions: int) -> int:
    """Return a batch with at least 8 steps per epoch: a power of two from 4 to 128."""
    return int(2 ** np.clip(np.floor(np.log2(max(1, regions / 8))), 2, 7))
