"""How much the tokens of a cohort vary: the unit in which noise is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.store.cohort import CohortTokens

SAMPLE = 512
"""Regions that are looked at: 100 MB of HIPT's tokens, read in about a second."""
_AT_ONCE = 16


def token_spread(tokens: CohortTokens, generator: torch.Generator) -> Tensor:
    """Standard deviation of each feature over the tokens of a random sample of regions.

    It is not kept in a checkpoint: the same cache and seed give the same bits, because NumPy sums in one order whatever
    the number of threads.

    Args:
        tokens: All regions; patches without a token are left out.
        generator: CPU generator of the sample.

    Returns:
        (D,) float32.

    Raises:
        CacheError: A token file can no longer be read.
    """
    regions = np.sort(torch.randperm(len(tokens), generator=generator)[:SAMPLE].numpy())
    count, total, squares = 0, 0.0, 0.0
    for part in np.array_split(regions, max(1, len(regions) // _AT_ONCE)):
        values, present = tokens.read(part).numpy(), tokens.present(part)
        values = (values.reshape(-1, values.shape[-1]) if present is None else values[present.numpy()]).astype(float)
        count, total, squares = count + len(values), total + values.sum(0), squares + np.square(values).sum(0)
    mean = total / max(1, count)
    variance = np.maximum(squares / max(1, count) - mean**2, 0)
    return torch.from_numpy(np.sqrt(variance).astype(np.float32))
