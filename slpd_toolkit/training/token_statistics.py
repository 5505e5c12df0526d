"""Statistics of a cohort's tokens, estimated from a sample of its regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.objectives.augment import TokenStatistics

if TYPE_CHECKING:
    from slpd_toolkit.store.cohort_tokens import CohortTokens

SAMPLE = 512
"""Number of regions in the sample: 100 MB of HIPT tokens, read in about a second."""
_AT_ONCE = 16


def sample_tokens(tokens: CohortTokens, generator: torch.Generator) -> TokenStatistics:
    """Compute token statistics of a random sample of regions.

    They are not saved in checkpoints: the same cache and seed give bit-identical results, because NumPy's order of
    summation does not depend on the number of threads.

    Args:
        tokens: All regions; patches without a token are ignored.
        generator: CPU random generator of the sample.

    Raises:
        CacheError: A token file can no longer be read.
    """
    regions = np.sort(torch.randperm(len(tokens), generator=generator)[:SAMPLE].numpy())
    count, total, squares = 0, 0.0, 0.0
    region_means = []
    for part in np.array_split(regions, max(1, len(regions) // _AT_ONCE)):
        values, present = tokens.read(part).numpy().astype(float), tokens.present(part)
        there = np.ones(values.shape[:-1], bool) if present is None else present.numpy()
        values[~there] = 0
        sums, counts = values.sum((1, 2)), there.sum((1, 2))
        region_means.append(sums[counts > 0] / counts[counts > 0, None])
        count, total, squares = count + counts.sum(), total + sums.sum(0), squares + np.square(values).sum((0, 1, 2))
    mean = total / max(1, count)
    variance = np.maximum(squares / max(1, count) - mean**2, 0)
    spread, means = np.sqrt(variance), np.concatenate(region_means)
    return TokenStatistics(*(torch.from_numpy(found.astype(np.float32)) for found in (spread, means)))
