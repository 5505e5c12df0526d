"""One encoder of a run with its cache; several encoders share the pixels of one reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.encoders.stain import restain
from slpd_toolkit.encoders.stream import EncoderStream, encode_stream
from slpd_toolkit.ingest.embedding.tally import EmbedTally
from slpd_toolkit.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import torch
    from torch import Tensor

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.encoders.stream import Part
    from slpd_toolkit.ingest.embedding.block_key import BlockKey
    from slpd_toolkit.ingest.embedding.identity import CacheIdentity

STAGE = "embed"
QC_FOLDER = "qc"


class Failures(Protocol):
    """Interface of a log of failures, such as `core.failures.FailureLog`."""

    def __len__(self) -> int:
        """Return the number of failures."""

    def add(self, failure: Failure) -> None:
        """Record a failure."""


def restain_parts(batch: Tensor, parts: Sequence[Part[BlockKey]]) -> None:
    """Change the stain of a batch in place, each part by the change of its slide.

    Args:
        batch: (B, H, W, 3) uint8, on the device of the encoder.
        parts: Parts of the batch, in turn.
    """
    first = 0
    for part in parts:
        change, inside = part.key.job.stain, slice(first, first + part.count)
        if change is not None:
            batch[inside] = restain(batch[inside], change)
        first = inside.stop


@dataclass(eq=False)
class Lane:
    """An encoder on its device, its cache, and the counts so far."""

    identity: CacheIdentity
    device: torch.device
    failures: Failures
    tally: EmbedTally = field(default_factory=EmbedTally)
    on_over: Callable[[str], None] = lambda _: None
    """Called with the ID of each slide that this encoder has finished, skipped or given up."""

    @property
    def batch_size(self) -> int:
        """Number of patches per forward pass."""
        return self.identity.config.batch_size or (32 if self.device.type == "cpu" else 256)

    @cached_property
    def stream(self) -> EncoderStream[BlockKey]:
        """Stream that encodes patches to tokens."""
        return EncoderStream(
            self.identity.encoder,
            batch_size=self.batch_size,
            patch_px=self.identity.geometry.patch_px,
            device=self.device,
            precision=self.identity.precision,
            prepare=restain_parts if self.identity.view else None,
        )

    @cached_property
    def white_token(self) -> npt.NDArray[np.float32]:
        """Token of a white patch, (1, D), for all padding outside slides; computing it takes one batch.

        White is the same under all changes of stain.
        """
        patch_px = self.identity.geometry.patch_px
        white = np.full((1, patch_px, patch_px, 3), 255, np.uint8)
        stream = encode_stream(
            self.identity.encoder,
            [(None, white)],
            batch_size=self.batch_size,
            patch_px=patch_px,
            device=self.device,
            precision=self.identity.precision,
        )
        return next(tokens for _, _, tokens in stream)

    def token_file(self, entry: SlideEntry) -> Path:
        """Return the path of the token file of a slide."""
        return self.identity.config.out / f"{entry.slide_id}{schema.SUFFIX}"

    def picture(self, entry: SlideEntry) -> Path:
        """Return the path of the quality-control image of a slide."""
        return self.identity.config.out / QC_FOLDER / f"{entry.slide_id}.jpg"

    def record(self, entry: SlideEntry, error: Exception) -> None:
        """Record that a slide failed."""
        self.failures.add(Failure.of(STAGE, entry.slide_id, entry.slide_path, error))
        console.warn(f"{entry.slide_id}: {error}")
        self.on_over(entry.slide_id)
