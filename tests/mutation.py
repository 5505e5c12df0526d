"""Damaged copies of files, with typical faults of disks, networks and tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


def mutants(whole: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Yield damaged copies: bits flipped, ranges zeroed or random, blocks swapped, the end cut off."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        damaged = bytearray(whole)
        first = int(rng.integers(len(whole)))
        length = int(min(2 ** rng.uniform(0, 10), len(whole) - first))
        kind = number % 5
        if kind == 0:
            for place in rng.integers(len(whole), size=int(rng.integers(1, 4))).tolist():
                damaged[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            damaged[first : first + length] = bytes(length)
        elif kind == 2:
            damaged[first : first + length] = rng.bytes(length)
        elif kind == 3:
            other = int(rng.integers(len(whole) - length + 1))
            one, two = whole[first : first + length], whole[other : other + length]
            damaged[first : first + length], damaged[other : other + length] = two, one
        else:
            del damaged[first:]
        if bytes(damaged) != whole:
            yield bytes(damaged)
