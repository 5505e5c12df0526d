"""Embedding on a Ray cluster: one actor per GPU, or per node if there are no GPUs, and the queue of `fleet`."""

from __future__ import annotations

import os
import queue
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.files import working_folder
from slpd_toolkit.ingest.embedding.device_process import embed_queue, settings_of_lanes
from slpd_toolkit.ingest.embedding.fleet import Fleet, Member
from slpd_toolkit.ingest.embedding.readers import MAX_WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.ingest.embedding.device_process import DeviceSettings
    from slpd_toolkit.ingest.embedding.lane import Lane
    from slpd_toolkit.slides.plan import SlidePlan

_POLL_S = 0.5
_WAIT_S = 1.0


@dataclass(frozen=True)
class Slot:
    """Room for one actor on a node."""

    node_id: str
    address: str
    cpus: int
    gpus: int
    share: int
    """Number of slots on the node."""


class Embedder:
    """An actor: embeds slides in a thread, and exchanges messages with the command when it asks for them."""

    def __init__(self, settings: DeviceSettings, folder: str) -> None:
        with suppress(OSError):
            os.chdir(folder)  # paths may be relative to the folder of the command
        console.VERBOSITY.quiet = True
        self._entries: queue.Queue[SlideEntry | None] = queue.Queue()
        self._messages: queue.Queue[tuple[Any, ...]] = queue.Queue()
        Thread(target=self._work, args=(settings,), daemon=True).start()

    def exchange(self, entries: list[SlideEntry | None]) -> list[tuple[Any, ...]]:
        """Take slides, and return messages; waits a moment for the first one."""
        for entry in entries:
            self._entries.put(entry)
        messages = []
        with suppress(queue.Empty):
            messages.append(self._messages.get(timeout=_POLL_S))
            while True:
                messages.append(self._messages.get_nowait())
        return messages

    def _work(self, settings: DeviceSettings) -> None:
        try:
            with compute.explain_out_of_memory("Lower --batch-size; finished slides are kept."):
                embed_queue(settings, self._entries.get, lambda *message: self._messages.put(message))
        except SlpdError as error:
            self._messages.put(("error", error))
        except BaseException:  # whatever it was, the command must learn of it
            self._messages.put(("ended",))
            raise
        else:
            self._messages.put(("ended",))


@dataclass(eq=False, kw_only=True)
class RemoteMember(Member):
    """An actor as seen by the command."""

    ray: Any
    actor: Any
    slot: Slot
    pending: Any = None
    """Reference to the answer of the current exchange."""
    entries: list[SlideEntry | None] = field(default_factory=list)
    reason: str = ""

    def send(self, entry: SlideEntry | None) -> None:
        """Keep a slide for the next exchange."""
        self.entries.append(entry)

    def ask(self) -> Any:
        """Start an exchange unless one is under way, and return the reference to its answer."""
        if self.pending is None:
            self.pending, self.entries = self.actor.exchange.remote(self.entries), []
        return self.pending

    def receive(self) -> list[tuple[Any, ...]]:
        """Return the messages of the exchange."""
        answer, self.pending = self.pending, None
        try:
            messages: list[tuple[Any, ...]] = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self.reason = type(error).__name__
            raise EOFError from error
        for _, failure in (content for kind, *content in messages if kind == "failed"):
            console.warn(f"{failure.slide_id}: {failure.error} {failure.hint}")  # its own messages are not seen here
        if messages and messages[-1] == ("ended",):
            self.reason = "done"
            if len(messages) == 1:
                raise EOFError
            self.pending = self.ray.put(messages[-1:])
        return [message for message in messages if message != ("ended",)]

    def end(self) -> None:
        """Kill the actor if it is running."""
        with suppress(Exception):  # the cluster may be gone
            self.ray.kill(self.actor)

    def how_it_ended(self) -> str:
        """Return the error of Ray."""
        return self.reason

    def can_restart(self) -> bool:
        """Return whether its node is alive."""
        return any(node["Alive"] and node["NodeID"] == self.slot.node_id for node in self.ray.nodes())


def find_slots(ray: Any) -> list[Slot]:
    """Return a slot per GPU of the cluster, with its share of the node's cores; without GPUs, one per node.

    Raises:
        UsageError: No node has cores.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    with_gpus = [node for node in nodes if node["Resources"].get("GPU")]
    slots = []
    for node in with_gpus or nodes:
        cpus, gpus = int(node["Resources"]["CPU"]), int(node["Resources"].get("GPU", 0))
        share = max(1, gpus)
        one = Slot(node["NodeID"], node["NodeManagerAddress"], max(1, cpus // share), min(1, gpus), share)
        slots += [one] * share
    if not slots:
        raise UsageError("--cluster: no node of the cluster has CPU cores.", hint="Start nodes with `ray start`.")
    return slots


def resolve_remotely(ray: Any, slot: Slot, precision: Precision) -> Precision:
    """Resolve `auto` on a node of the cluster, since this machine may have no GPU."""
    if precision != "auto":
        return precision
    resolve = ray.remote(compute.resolve_precision).options(num_gpus=slot.gpus, num_cpus=1)
    found: Precision = ray.get(resolve.remote(precision, torch.device("cuda" if slot.gpus else "cpu")))
    return found


def cluster_fleet(
    ray: Any,
    slots: Sequence[Slot],
    device: torch.device,
    lanes: Sequence[Lane],
    draw: Callable[[Path, SlidePlan], None],
) -> Fleet:
    """Return a fleet of one actor per slot; see `device_fleet`.

    An actor that dies is restarted while its node is alive; its slides are processed by any of the others.
    """
    workers = lanes[0].identity.config.workers
    places = []
    for slot in slots:
        readers = workers or min(slot.cpus, MAX_WORKERS)
        settings = settings_of_lanes(lanes, device, readers, slot.share, draw)
        places.append(partial(_start, ray, slot, settings))
    return Fleet(lanes, places, partial(_wait, ray))


def _start(ray: Any, slot: Slot, settings: DeviceSettings) -> RemoteMember:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(slot.node_id, soft=False)
    options = {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "max_restarts": 0, "scheduling_strategy": here}
    actor = ray.remote(Embedder).options(**options).remote(settings, working_folder())
    return RemoteMember(f"{slot.address} ({settings.device})", ray=ray, actor=actor, slot=slot)


def _wait(ray: Any, members: Sequence[Member]) -> list[Member]:
    asked = {member.ask(): member for member in members if isinstance(member, RemoteMember)}
    ready, _ = ray.wait(list(asked), num_returns=1, timeout=_WAIT_S)
    return [asked[reference] for reference in ready]
