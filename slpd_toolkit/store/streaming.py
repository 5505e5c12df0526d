"""Apply a function to every region of a cohort, with threads that read ahead and memory for a few batches only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slpd_toolkit.core.readahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import numpy.typing as npt
    import torch
    from torch import Tensor

    from slpd_toolkit.store.cohort_tokens import CohortTokens

    Regions = npt.NDArray[np.int64]

REGIONS_AT_ONCE = 256


class RegionBatch(NamedTuple):
    """A batch of regions."""

    tokens: Tensor
    """(n, grid, grid, D) float16, on the device."""
    present: Tensor | None
    """(n, grid, grid) bool, on the device: patches that have a token; None if all in the cache have."""
    regions: npt.NDArray[np.int64]
    """(n,) indices of the regions in the cohort."""


def map_regions(
    work: Callable[[RegionBatch], Tensor],
    tokens: CohortTokens,
    parts: Iterable[npt.NDArray[np.int64]],
    *,
    device: torch.device,
    workers: int,
) -> Generator[Tensor, None, None]:
    """Apply `work` to each batch of regions.

    Args:
        work: Function of a batch.
        tokens: All regions.
        parts: Regions of each batch, from `in_parts`.
        device: Device of the batches.
        workers: Number of threads that read ahead.

    Yields:
        One result per batch, in order.

    Raises:
        CacheError: A token file can no longer be read.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="token-reader") as pool:
        tasks = (
            (group, partial(tokens.read, np.concatenate(group), pin_memory=device.type == "cuda"))
            for group in _groups(parts)
        )
        for group, future in read_ahead(pool, tasks, workers + 1):
            read = future.result().to(device, non_blocking=True)
            start = 0
            for part in group:
                present = tokens.present(part)
                batch = read[start : start + len(part)]
                yield work(RegionBatch(batch, None if present is None else present.to(device), part))
                start += len(part)


def _groups(parts: Iterable[Regions]) -> Iterator[list[Regions]]:
    """Group batches that are read together: with small slides, threads would wait for each other most of the time."""
    group: list[Regions] = []
    regions = 0
    for part in parts:
        if group and regions + len(part) > REGIONS_AT_ONCE:
            yield group
            group, regions = [], 0
        group.append(part)
        regions += len(part)
    if group:
        yield group


def in_parts(regions: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Divide regions into batches that fit into the memory of a device."""
    return [regions[start : start + REGIONS_AT_ONCE] for start in range(0, len(regions), REGIONS_AT_ONCE)]
