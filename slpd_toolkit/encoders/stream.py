"""A stream of patches in, a stream of tokens out: batches fill across whatever the patches came from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.encoder import Encoder

Key = TypeVar("Key")


@dataclass(frozen=True)
class Part(Generic[Key]):
    """A run of patches of one item in one batch: patches `first` to `first + count` of the item called `key`."""

    key: Key
    first: int
    count: int


def encode_stream(
    encoder: Encoder,
    patches: Iterable[tuple[Key, npt.NDArray[np.uint8]]],
    *,
    batch_size: int,
    patch_px: int,
    device: torch.device,
    precision: Precision,
) -> Iterator[tuple[Key, int, npt.NDArray[np.float32]]]:
    """Encode patches in full batches.

    Every batch has the same size, the last one padded: then a patch's token does not depend on which patches share its
    batch, and a run that was interrupted gives the same tokens as one that was not. On a GPU one batch computes while
    the next one is gathered.

    Args:
        encoder: On `device`.
        patches: Items of a key and (n, patch_px, patch_px, 3) uint8 patches; n may be 0 or larger than a batch.
        batch_size: Patches a forward pass.
        patch_px: Side of the patches.
        device: Where the encoder is.
        precision: Arithmetic of the encoder.

    Yields:
        For each item, in order and in as many parts as it was spread over batches: its key, the index of the part's
        first patch in the item, and the part's tokens, (m, D) float32.
    """
    in_flight: deque[tuple[Tensor, list[Part[Key]]]] = deque()
    ahead = 0 if device.type == "cpu" else 1
    for batch, parts in fill_batches(patches, batch_size, patch_px, pin_memory=device.type == "cuda"):
        in_flight.append((encoder.embed(batch.to(device, non_blocking=True), precision), parts))
        if len(in_flight) > ahead:
            yield from _land(*in_flight.popleft())
    for tokens, parts in in_flight:
        yield from _land(tokens, parts)


def fill_batches(
    patches: Iterable[tuple[Key, npt.NDArray[np.uint8]]], batch_size: int, patch_px: int, *, pin_memory: bool
) -> Iterator[tuple[Tensor, list[Part[Key]]]]:
    """Lay patches into batches of exactly `batch_size`, the last one padded with black.

    Yields:
        (batch_size, patch_px, patch_px, 3) uint8, a new tensor each time, and the parts that lie in it in turn.
    """

    def empty_batch() -> Tensor:
        return torch.zeros((batch_size, patch_px, patch_px, 3), dtype=torch.uint8, pin_memory=pin_memory)

    batch, parts, filled = empty_batch(), list[Part[Key]](), 0
    for key, pixels in patches:
        first = 0
        while first < len(pixels):
            count = min(len(pixels) - first, batch_size - filled)
            batch[filled : filled + count] = torch.from_numpy(pixels[first : first + count])
            parts.append(Part(key, first, count))
            first, filled = first + count, filled + count
            if filled == batch_size:
                yield batch, parts
                batch, parts, filled = empty_batch(), [], 0
    if filled:
        yield batch, parts


def _land(tokens: Tensor, parts: list[Part[Key]]) -> Iterator[tuple[Key, int, npt.NDArray[np.float32]]]:
    """Wait for a batch and hand out its parts."""
    values, done = tokens.cpu().numpy(), 0
    for part in parts:
        yield part.key, part.first, values[done : done + part.count]
        done += part.count
