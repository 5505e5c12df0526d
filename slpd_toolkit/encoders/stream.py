"""A stream of patches in, a stream of tokens out: batches fill across whatever the patches came from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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
    stream = EncoderStream[Key](encoder, batch_size=batch_size, patch_px=patch_px, device=device, precision=precision)
    for key, pixels in patches:
        yield from stream.put(key, pixels)
    yield from stream.flush()


class EncoderStream(Generic[Key]):
    """An encoder that takes patches as they come and returns tokens as batches are full; see `encode_stream`.

    `prepare` changes each batch in place, on the device, before it is encoded, given its parts.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        batch_size: int,
        patch_px: int,
        device: torch.device,
        precision: Precision,
        prepare: Callable[[Tensor, Sequence[Part[Key]]], None] | None = None,
    ) -> None:
        self._encoder, self._device, self._precision, self._prepare = encoder, device, precision, prepare
        self._batches = BatchFiller[Key](batch_size, patch_px, pin_memory=device.type == "cuda")
        self._in_flight: deque[tuple[Tensor, list[Part[Key]]]] = deque()
        self._ahead = 0 if device.type == "cpu" else 1

    def put(self, key: Key, pixels: npt.NDArray[np.uint8]) -> Iterator[tuple[Key, int, npt.NDArray[np.float32]]]:
        """Add the patches of an item, and yield the parts of this and earlier items that are ready."""
        for batch, parts in self._batches.add(key, pixels):
            self._start(batch, parts)
            while len(self._in_flight) > self._ahead:
                yield from _land(*self._in_flight.popleft())

    def flush(self) -> Iterator[tuple[Key, int, npt.NDArray[np.float32]]]:
        """Encode what is left, and yield all parts that were not yielded before."""
        for batch, parts in self._batches.rest():
            self._start(batch, parts)
        while self._in_flight:
            yield from _land(*self._in_flight.popleft())

    def _start(self, batch: Tensor, parts: list[Part[Key]]) -> None:
        batch = batch.to(self._device, non_blocking=True)
        if self._prepare is not None:
            self._prepare(batch, parts)
        tokens = self._encoder.embed(batch, self._precision)
        self._in_flight.append((tokens, parts))


def fill_batches(
    patches: Iterable[tuple[Key, npt.NDArray[np.uint8]]], batch_size: int, patch_px: int, *, pin_memory: bool
) -> Iterator[tuple[Tensor, list[Part[Key]]]]:
    """Lay patches into batches of exactly `batch_size`, the last one padded with black.

    Yields:
        (batch_size, patch_px, patch_px, 3) uint8, a new tensor each time, and its parts, in order.
    """
    filler = BatchFiller[Key](batch_size, patch_px, pin_memory=pin_memory)
    for key, pixels in patches:
        yield from filler.add(key, pixels)
    yield from filler.rest()


class BatchFiller(Generic[Key]):
    """Lays patches into batches as they come; see `fill_batches`."""

    def __init__(self, batch_size: int, patch_px: int, *, pin_memory: bool) -> None:
        self._shape, self._pin_memory = (batch_size, patch_px, patch_px, 3), pin_memory
        self._parts: list[Part[Key]] = []
        self._filled = 0
        self._batch = self._empty()

    def add(self, key: Key, pixels: npt.NDArray[np.uint8]) -> Iterator[tuple[Tensor, list[Part[Key]]]]:
        """Add the patches of an item, and yield the batches that they fill."""
        first = 0
        while first < len(pixels):
            count = min(len(pixels) - first, self._shape[0] - self._filled)
            self._batch[self._filled : self._filled + count] = torch.from_numpy(pixels[first : first + count])
            self._parts.append(Part(key, first, count))
            first, self._filled = first + count, self._filled + count
            if self._filled == self._shape[0]:
                yield self._take()

    def rest(self) -> Iterator[tuple[Tensor, list[Part[Key]]]]:
        """Yield the batch that is begun, if there is one."""
        if self._filled:
            yield self._take()

    def _empty(self) -> Tensor:
        return torch.zeros(self._shape, dtype=torch.uint8, pin_memory=self._pin_memory)

    def _take(self) -> tuple[Tensor, list[Part[Key]]]:
        batch, parts = self._batch, self._parts
        self._batch, self._parts, self._filled = self._empty(), [], 0
        return batch, parts


def _land(tokens: Tensor, parts: list[Part[Key]]) -> Iterator[tuple[Key, int, npt.NDArray[np.float32]]]:
    """Wait for a batch and hand out its parts."""
    values, done = tokens.cpu().numpy(), 0
    for part in parts:
        yield part.key, part.first, values[done : done + part.count]
        done += part.count
