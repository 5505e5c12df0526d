"""Apply a function to every region of a cohort, with threads that read ahead and memory for a few batches only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from slpd_toolkit.core.readahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from slpd_toolkit.store.cohort_tokens import CohortTokens

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
        tasks = ((part, partial(tokens.read, part, pin_memory=device.type == "cuda")) for part in parts)
        for part, future in read_ahead(pool, tasks, workers + 1):
            present = tokens.present(part)
            on_device = None if present is None else present.to(device)
            yield work(RegionBatch(future.result().to(device, non_blocking=True), on_device, part))


def in_parts(regions: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Divide regions into batches that fit into the memory of a device."""
    return [regions[start : start + REGIONS_AT_ONCE] for start in range(0, len(regions), REGIONS_AT_ONCE)]
