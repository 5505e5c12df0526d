"""Where slides are embedded: in this process, in one process per device, or on a cluster."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core import compute
from slpd_toolkit.core.cluster import joined_cluster
from slpd_toolkit.core.text import listed
from slpd_toolkit.ingest.embedding.devices import device_fleet
from slpd_toolkit.ingest.embedding.pipeline import EmbeddingPipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.ingest.embedding.lane import Lane
    from slpd_toolkit.slides.plan import SlidePlan

    Draw = Callable[[Path, SlidePlan], None]


@dataclass(frozen=True)
class Hardware:
    """The devices of a run."""

    device: torch.device
    """Device of the encoders of this process; the CPU if others embed."""
    target: torch.device
    """A device that embeds."""
    description: str
    """The devices, for messages."""
    resolve_precision: Callable[[Precision], Precision]
    """Resolves `auto` as `compute.resolve_precision` does on the devices that embed."""
    embed: Callable[[Sequence[Lane], Sequence[SlideEntry]], None]
    """Embeds slides."""


@contextmanager
def chosen_hardware(config: EmbedConfig, draw: Draw) -> Iterator[Hardware]:
    """Find the devices of `--device`, or those of the cluster of `--cluster`, for the duration of the block.

    Args:
        config: The settings.
        draw: A module-level function that draws the quality-control image of a slide.

    Raises:
        UsageError: A device or the cluster is not available.
    """
    if config.cluster:
        with joined_cluster(config.cluster) as ray:
            yield _of_cluster(ray, draw)
        return
    devices = compute.resolve_devices(config.device)
    several = len(devices) > 1

    def embed(lanes: Sequence[Lane], entries: Sequence[SlideEntry]) -> None:
        if several:
            device_fleet(devices, lanes, draw).run(entries)
        else:
            EmbeddingPipeline(lanes, draw).run(entries, len(entries))

    yield Hardware(
        device=torch.device("cpu") if several else devices[0],  # with several, each process has its own encoders
        target=devices[0],
        description=listed(compute.describe(device) for device in devices),
        resolve_precision=partial(compute.resolve_precision, device=devices[0]),
        embed=embed,
    )


def _of_cluster(ray: object, draw: Draw) -> Hardware:
    from slpd_toolkit.ingest.embedding.cluster import cluster_fleet, find_slots, resolve_remotely

    slots = find_slots(ray)
    device = torch.device("cuda" if slots[0].gpus else "cpu")
    nodes = len({slot.node_id for slot in slots})
    what = "GPUs" if slots[0].gpus else "processes"
    return Hardware(
        device=torch.device("cpu"),
        target=device,
        description=f"{len(slots)} {what} on {nodes} nodes of the Ray cluster",
        # What a GPU supports is asked there, since this machine may have none.
        resolve_precision=partial(resolve_remotely, ray, slots[0])
        if slots[0].gpus
        else partial(compute.resolve_precision, device=device),
        embed=lambda lanes, entries: cluster_fleet(ray, slots, device, lanes, draw).run(entries),
    )
