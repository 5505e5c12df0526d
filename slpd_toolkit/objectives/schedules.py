"""Schedules as arrays: one value per iteration of the run, computed in advance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cosine(
    start: float, end: float, *, iterations: int, warmup_iterations: int = 0, warmup_start: float = 0.0
) -> NDArray[np.float64]:
    """Return a half cosine from `start` to `end` after a linear warm-up (DINO, https://arxiv.org/abs/2104.14294).

    The last value is one step before `end`, as in DINO's code.

    Args:
        start: Value at the end of the warm-up.
        end: Value approached by the cosine.
        iterations: Length of the whole schedule.
        warmup_iterations: Length of the warm-up; its last value is `start`.
        warmup_start: First value of the warm-up.

    Returns:
        (iterations,) values.

    Raises:
        ValueError: The warm-up is longer than the schedule.
    """
    if not 0 <= warmup_iterations <= iterations:
        raise ValueError(f"warm-up must last 0 to {iterations} iterations, got {warmup_iterations}")
    remaining = iterations - warmup_iterations
    progress = np.arange(remaining) / max(remaining, 1)
    decay = end + 0.5 * (start - end) * (1.0 + np.cos(np.pi * progress))
    return np.concatenate((np.linspace(warmup_start, start, warmup_iterations), decay))
