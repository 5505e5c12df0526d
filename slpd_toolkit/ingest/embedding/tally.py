"""Counts of a run, expected work, and summary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.text import count, listed

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.ingest.embedding.slide_job import SlideJob, SlideReading


@dataclass
class EmbedTally:
    """Completed and planned work of the run."""

    slides: int = 0
    skipped: int = 0
    regions: int = 0
    patches: int = 0
    bytes: int = 0
    planned: int = 0
    patches_planned: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    """Slide ID -> number of patches without a token, because their pixels are missing."""
    doubts: dict[str, str] = field(default_factory=dict)
    """Slide ID -> contradicting statements about its resolution."""
    started: float = field(default_factory=time.monotonic)

    def add(self, other: EmbedTally) -> None:
        """Add what another process has done and planned."""
        for name in ("slides", "skipped", "regions", "patches", "bytes", "planned", "patches_planned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lost |= other.lost
        self.doubts |= other.doubts

    def plan(self, reading: SlideReading) -> None:
        """Count a slide that will be encoded."""
        self.planned += 1
        self.patches_planned += len(reading.plan) * reading.plan.lattice.grid**2

    def finish(self, reading: SlideReading, job: SlideJob) -> None:
        """Count a slide whose token file is complete."""
        self.slides += 1
        self.regions += len(reading.plan)
        self.bytes += job.writer.path.stat().st_size
        if reading.slide.header.doubt:
            self.doubts[reading.entry.slide_id] = reading.slide.header.doubt
        if job.lost:
            self.lost[reading.entry.slide_id] = job.lost

    def expected_patches(self, slides: int, failed: int) -> float:
        """Estimate the total number of patches of the run from the slides planned so far.

        Args:
            slides: Number of slides of the run.
            failed: Number of slides that failed.
        """
        unseen = slides - self.skipped - self.planned - failed
        return self.patches_planned * (1 + max(0, unseen) / max(1, self.planned))


def print_summary(tally: EmbedTally, failures: FailureLog, out: Path, contact_sheet: Path | None) -> None:
    """Print a summary, and the files that list failures and images."""
    seconds = time.monotonic() - tally.started
    console.table(
        f"Token cache {out}",
        [
            {
                "slides": tally.slides,
                "skipped": tally.skipped,
                "failed": len(failures.rows),
                "regions": tally.regions,
                "patches": tally.patches,
                "patches/s": tally.patches / seconds,
                "time": console.human_seconds(seconds),
                "size": console.human_bytes(tally.bytes),
            }
        ],
    )
    if failures.rows:
        console.warn(
            f"{count(len(failures.rows), 'slide')} failed; see {failures.path} for the reasons and what to do."
        )
    if tally.lost:
        console.warn(
            f"{count(len(tally.lost), 'slide lacks', 'slides lack')} pixels; "
            f"{count(sum(tally.lost.values()), 'patch has', 'patches have')} no token: "
            f"{listed(f'{slide_id} ({count:,})' for slide_id, count in tally.lost.items())}."
        )
    if tally.doubts:
        console.warn(
            f"{count(len(tally.doubts), 'slide has', 'slides have')} contradicting resolutions: "
            f"{listed(f'{slide_id} ({doubt})' for slide_id, doubt in tally.doubts.items())}. The first was used; "
            "enter the correct one in the manifest column `mpp`."
        )
    if contact_sheet:
        console.note(f"Check the detected tissue in {contact_sheet}.")
