"""The process of one device: it requests slides, embeds them, and reports the results."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import SlpdError, WeightsError
from slpd_toolkit.core.workers import end_with
from slpd_toolkit.ingest.embedding.encoder_of import encoder_of
from slpd_toolkit.ingest.embedding.identity import CacheIdentity
from slpd_toolkit.ingest.embedding.lane import Lane
from slpd_toolkit.ingest.embedding.pipeline import EmbeddingPipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.slides.plan import SlidePlan

_TELL_EVERY_S = 1.0


@dataclass(frozen=True)
class DeviceSettings:
    """Settings of the process of a device; lists have one item per encoder."""

    device: torch.device
    configs: list[EmbedConfig]
    geometries: list[Geometry]
    precisions: list[Precision]
    digests: list[str]
    """Digests of the weights when the command checked them."""
    views: list[int]
    """Number of the stain view; the views of an encoder follow it, and share its network."""
    readers: int
    """Number of processes that read slides for this device."""
    share: int
    """Number of processes that share the disk of `--stage-to`."""
    draw: Callable[[Path, SlidePlan], None]


def settings_of_lanes(
    lanes: Sequence[Lane], device: torch.device, readers: int, share: int, draw: Callable[[Path, SlidePlan], None]
) -> DeviceSettings:
    """Return the settings of a process that does the work of `lanes` on a device."""
    identities = [lane.identity for lane in lanes]
    return DeviceSettings(
        device=device,
        configs=[each.config for each in identities],
        geometries=[each.geometry for each in identities],
        precisions=[each.precision for each in identities],
        digests=[each.encoder.weights_sha256 for each in identities],
        views=[each.view for each in identities],
        readers=readers,
        share=share,
        draw=draw,
    )


class _RemoteLog:
    """Sends failures to the process that writes failures.csv."""

    def __init__(self, tell: Callable[..., None], lane: int) -> None:
        self._tell, self._lane, self._count = tell, lane, 0

    def __len__(self) -> int:
        return self._count

    def add(self, failure: Failure) -> None:
        """Send a failure."""
        self._count += 1
        self._tell("failed", self._lane, failure)


def serve(descriptor: int) -> None:
    """Embed slides until there are none left.

    Args:
        descriptor: Socket on which settings and slides arrive.
    """
    end_with(int(os.environ["SLPD_PARENT"]))
    console.VERBOSITY.quiet = True
    connection, lock = Connection(descriptor), Lock()

    def tell(kind: str, *content: Any) -> None:
        with lock:
            connection.send((kind, *content))

    settings: DeviceSettings = connection.recv()
    try:
        with compute.explain_out_of_memory("Lower --batch-size; finished slides are kept."):
            embed_queue(settings, connection.recv, tell)
    except SlpdError as error:
        tell("error", error)
    except (EOFError, BrokenPipeError):
        os._exit(1)


def embed_queue(settings: DeviceSettings, receive: Callable[[], SlideEntry | None], tell: Callable[..., None]) -> None:
    """Embed slides until there are none left.

    Args:
        settings: What to do.
        receive: Returns the slide that was asked for; None if there is none.
        tell: Sends a message: its kind, and its content.
    """
    lanes: list[Lane] = []
    for index in range(len(settings.configs)):
        lanes.append(_lane(settings, index, tell, lanes[-1].identity.encoder if settings.views[index] else None))
    told = time.monotonic()

    def tell_progress() -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            tell("tallies", [lane.tally for lane in lanes])

    def following() -> Iterator[SlideEntry]:
        while True:
            tell("next")
            entry = receive()
            if entry is None:
                return
            yield entry

    pipeline = EmbeddingPipeline(
        lanes, settings.draw, readers=settings.readers, share=settings.share, on_progress=tell_progress
    )
    while True:
        tell("tallies", [lane.tally for lane in lanes])
        tell("idle")
        first = receive()
        if first is None:
            return
        pipeline.run(itertools.chain([first], following()), 0)


def _lane(settings: DeviceSettings, index: int, tell: Callable[..., None], made: Encoder | None) -> Lane:
    config, geometry = settings.configs[index], settings.geometries[index]
    encoder = made or encoder_of(config, geometry)
    if encoder.weights_sha256 != settings.digests[index]:
        raise WeightsError(
            f"The weights of {encoder.name} changed while they were used.", hint="Run the command again."
        )
    encoder.network.to(settings.device)
    identity = CacheIdentity(config, geometry, encoder, settings.precisions[index], settings.views[index])
    return Lane(identity, settings.device, _RemoteLog(tell, index), on_over=partial(tell, "over", index))
