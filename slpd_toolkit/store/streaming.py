"""Something computed from every region of a cohort, read ahead in threads, with memory for a few parts only."""

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
    """Regions that are read together."""

    tokens: Tensor
    """(n, grid, grid, D) float16, on the device."""
    present: Tensor | None
    """(n, grid, grid) bool, on the device: patches that are there; None where the cache has no gaps."""
    regions: npt.NDArray[np.int64]
    """(n,) which regions of the cohort they are."""


def map_regions(
    work: Callable[[RegionBatch], Tensor],
    tokens: CohortTokens,
    parts: Iterable[npt.NDArray[np.int64]],
    *,
    device: torch.device,
    workers: int,
) -> Generator[Tensor, None, None]:
    """Apply `work` to the tokens of each part.

    Args:
        work: From a batch to a result.
        tokens: All regions.
        parts: Regions that are read together; `in_parts` makes them.
        device: Where the work is done.
        workers: Threads that read ahead.

    Yields:
        A result a part, in their order.

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
    """Cut regions into parts that fit a device."""
    return [regions[start : start + REGIONS_AT_ONCE] for start in range(0, len(regions), REGIONS_AT_ONCE)]
