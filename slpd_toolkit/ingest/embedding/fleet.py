"""Several processes that embed slides from a common queue, on one machine or on a cluster.

If a process ends unexpectedly, the slides that it was working on are processed again, each alone in a process, so
that a slide that crashes its process does not fail others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError, SlpdError
from slpd_toolkit.core.text import count
from slpd_toolkit.ingest.embedding.tally import EmbedTally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.ingest.embedding.lane import Lane

_TRIES = 2
"""Maximum number of attempts per slide; a slide whose process ends each time has failed."""
_RESTARTS = 3
"""Maximum number of consecutive restarts of a device's process in which no slide was completed or failed."""


@dataclass(eq=False)
class Member(ABC):
    """A process of a fleet, as seen by the command."""

    name: str
    """Where it runs, for messages."""
    place: int = 0
    """Index of what started it."""
    tallies: list[EmbedTally] = field(default_factory=list)
    held: dict[str, SlideEntry] = field(default_factory=dict)
    """Slides that it has received but not finished."""
    waits: bool = False
    """Whether it is waiting for slides."""

    def give(self, entry: SlideEntry | None) -> None:
        """Send a slide, or None for no slide."""
        self.waits = False
        if entry is not None:
            self.held[entry.slide_id] = entry
        self.send(entry)

    @abstractmethod
    def send(self, entry: SlideEntry | None) -> None:
        """Send a slide; if the process has ended, this is noticed when its messages are read."""

    @abstractmethod
    def receive(self) -> list[tuple[Any, ...]]:
        """Return messages that have arrived.

        Raises:
            EOFError: The process has ended.
        """

    @abstractmethod
    def end(self) -> None:
        """Kill the process if it is running."""

    @abstractmethod
    def how_it_ended(self) -> str:
        """Return how it ended."""

    def can_restart(self) -> bool:
        """Return whether another process can be started in its place."""
        return True


class Fleet:
    """Embeds slides in several processes.

    Args:
        lanes: The encoders as built in this process; their failure logs and tallies are filled.
        places: Starts one process each: one per device.
        wait: Returns those of the processes that have sent a message or have ended; may return none.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        places: Sequence[Callable[[], Member]],
        wait: Callable[[Sequence[Member]], Sequence[Member]],
    ) -> None:
        self._lanes, self._places, self._wait = lanes, places, wait
        self._queue: deque[SlideEntry] = deque()
        self._suspects: deque[SlideEntry] = deque()  # slides whose process ended unexpectedly
        self._tries: Counter[str] = Counter()
        self._over: defaultdict[str, set[int]] = defaultdict(set)
        """Slide ID -> indices of the encoders that have finished it, or have failed."""
        self._restarts: Counter[int] = Counter()
        self._members: list[Member] = []

    def run(self, entries: Sequence[SlideEntry]) -> None:
        """Embed slides; those that fail are recorded, and the others continue.

        Raises:
            SlpdError: A process cannot work (weights, memory of the device), or the processes of all devices keep
                ending.
        """
        self._queue.extend(entries)
        self._members = [self._start(place) for place in range(min(len(self._places), max(1, len(entries))))]
        try:
            with console.progress("embed", total=1, unit="patches") as progress:
                done_before = 0
                while self._members:
                    for member in self._wait(self._members):
                        self._attend(member)
                    self._serve_waiting()
                    tallies = self._merge_tallies()
                    patches = sum(tally.patches for tally in tallies)
                    expected = [
                        tally.expected_patches(len(entries), len(lane.failures))
                        for tally, lane in zip(tallies, self._lanes, strict=True)
                    ]
                    progress.expect(sum(expected))
                    done = min(tally.slides + tally.skipped for tally in tallies)
                    progress.advance(patches - done_before, f"{done}/{len(entries)} slides")
                    done_before = patches
        finally:
            for member in self._members:
                member.end()
        left = len(self._queue) + len(self._suspects)
        if left:
            raise SlpdError(
                f"The processes of all devices ended; {count(left, 'slide is', 'slides are')} left.",
                hint="They may have run out of memory. Run the same command again, with a smaller --batch-size.",
            )

    def _start(self, place: int) -> Member:
        member = self._places[place]()
        member.place, member.tallies = place, [EmbedTally() for _ in self._lanes]
        return member

    def _attend(self, member: Member) -> None:
        """Handle the messages of a member, or its end."""
        try:
            messages = member.receive()
        except EOFError:
            self._bury(member)
            return
        for kind, *content in messages:
            self._handle(member, kind, content)

    def _handle(self, member: Member, kind: str, content: list[Any]) -> None:
        if kind == "next":
            alone = any(self._tries[slide_id] for slide_id in member.held)
            member.give(self._queue.popleft() if self._queue and not alone else None)
        elif kind == "idle":
            member.waits = True
        elif kind == "over":
            lane, slide_id = content
            self._over[slide_id].add(lane)
            if len(self._over[slide_id]) == len(self._lanes):
                member.held.pop(slide_id, None)
                self._restarts[member.place] = 0
        elif kind == "failed":
            lane, failure = content
            if lane not in self._over[failure.slide_id]:  # otherwise recorded in an earlier attempt
                self._lanes[lane].failures.add(failure)
        elif kind == "tallies":
            (member.tallies,) = content
        else:
            assert kind == "error"
            raise content[0]

    def _serve_waiting(self) -> None:
        """Send slides to waiting processes; end them when no slides are left."""
        for member in [each for each in self._members if each.waits]:
            waiting = self._queue or self._suspects
            if waiting:
                member.give(waiting.popleft())
        if not self._queue and not self._suspects and not any(member.held for member in self._members):
            for member in self._members:
                if member.waits:
                    member.give(None)

    def _bury(self, member: Member) -> None:
        """Queue the slides of an ended process again, and restart it if there is work left."""
        member.end()
        self._members.remove(member)
        for lane, tally in zip(self._lanes, member.tallies, strict=True):
            lane.tally.add(tally)
        alive = member.can_restart()
        for slide_id, entry in reversed(member.held.items()):
            if not alive:  # a node that goes down says nothing about its slides
                (self._suspects if self._tries[slide_id] else self._queue).appendleft(entry)
                continue
            self._tries[slide_id] += 1
            if self._tries[slide_id] < _TRIES:
                self._suspects.appendleft(entry)
                continue
            self._restarts[member.place] = 0
            error = SlideError(
                f"{entry.slide_path}: the process embedding it ended unexpectedly {_TRIES} times.",
                hint="It may have run out of memory: embed this slide alone, with a smaller --batch-size.",
            )
            for index, lane in enumerate(self._lanes):
                if index not in self._over[slide_id]:
                    lane.record(entry, error)
        if member.held:
            console.warn(
                f"The process on {member.name} ended ({member.how_it_ended()}); the {count(len(member.held), 'slide')} "
                "assigned to it will be processed again."
            )
        if (self._queue or self._suspects) and self._restarts[member.place] < _RESTARTS and alive:
            self._restarts[member.place] += 1
            self._members.append(self._start(member.place))

    def _merge_tallies(self) -> list[EmbedTally]:
        """Sum the counts of all processes, including those that have ended."""
        merged = []
        for index, lane in enumerate(self._lanes):
            total = EmbedTally()
            for tally in [lane.tally, *(member.tallies[index] for member in self._members)]:
                total.add(tally)
            merged.append(total)
        return merged
