"""Processing of one slide: it is opened, planned, read and written, and its token file is then completed or discarded.

It is opened once, read once per geometry, and written once per encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import CacheError, SlideError
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.slides.masks import MaskFile
from slpd_toolkit.slides.plan import require_tissue
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.store.token_file import require_same
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.encoders.stain import StainChange
    from slpd_toolkit.ingest.embedding.lane import Lane
    from slpd_toolkit.ingest.embedding.staging import Stage
    from slpd_toolkit.slides.guarded_slide import SlideReaders
    from slpd_toolkit.slides.opened_slide import SlideHeader
    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan
    from slpd_toolkit.slides.regions import Lattice


def mask_of(entry: SlideEntry, config: EmbedConfig) -> MaskFile | None:
    """Return the mask of a slide with how it is used, or None."""
    if entry.mask_path is None:
        return None
    classes = tuple(name.strip() for name in config.mask_classes.split(",") if name.strip())
    return MaskFile(entry.mask_path, config.mask_mode, classes, config.mask_crop)


def place_regions(slide: SlideHeader, config: EmbedConfig, geometry: Geometry) -> Lattice:
    """Lay the regions of a run over a slide: see `slides.regions.lay_lattice`."""
    return lay_lattice(
        slide,
        target_mpp=geometry.mpp,
        patch_px=geometry.patch_px,
        region_px=geometry.region_px,
        max_upsample=config.selection.max_upsample,
    )


@dataclass(eq=False)
class SlideJob:
    """The tokens of one slide and encoder in progress, with a writer open for them."""

    lane: Lane
    writer: TokenWriter
    stain: StainChange | None = None
    """Change of stain before encoding; None for patches as they are."""
    over: bool = False
    lost: int = 0
    """Number of patches without a token, because their pixels are missing."""

    def end(self, *, keep: bool) -> None:
        """Complete the token file, or discard it.

        Raises:
            CacheError: The file cannot be written.
        """
        self.over = True
        if keep:
            self.writer.commit()
        else:
            self.writer.abort()


@dataclass(eq=False)
class SlideReading:
    """One slide that is read in one geometry, for every encoder of that geometry that does not have it yet."""

    entry: SlideEntry
    slide: GuardedSlide
    plan: SlidePlan
    jobs: list[SlideJob]
    stage: Stage | None = None
    siblings: list[SlideReading] = field(default_factory=list)
    """All readings of this slide, in other geometries too."""

    def end(self, job: SlideJob, *, keep: bool) -> None:
        """End a job, and remove the copy of the slide after the last one: see `SlideJob.end`."""
        job.over = True
        if self.stage and all(reading.over for reading in self.siblings):
            self.stage.release(self.entry)
        job.end(keep=keep)

    @property
    def over(self) -> bool:
        """Whether no encoder needs more of its pixels."""
        return all(job.over for job in self.jobs)

    def read(self, block: Block) -> BlockPixels:
        """Read a block: see `GuardedSlide.read_block`.

        Raises:
            SlideError: Pixels cannot be decoded, or the slide has been ended while the block was waiting.
        """
        if self.over:
            raise SlideError("abandoned")
        return self.slide.read_block(self.plan, block)


@dataclass
class OpenedSlides:
    """What came of opening one slide."""

    readings: list[SlideReading]
    skipped: list[Lane]
    """Encoders whose token file is complete."""
    failed: list[tuple[Lane, Exception]]


@dataclass(frozen=True)
class SlideOpener:
    """Opens slides, in reader threads."""

    readers: SlideReaders
    lanes: Sequence[Lane]
    draw: Callable[[Path, SlidePlan], None]
    """Draws the quality-control image."""
    stage: Stage | None
    """Copies of slides on a fast disk."""
    opened: deque[SlideReading]
    """Everything that was opened, so that a run that ends early can remove its unfinished files."""

    def open(self, entry: SlideEntry) -> OpenedSlides:
        """Open a slide once; per geometry find its regions; per encoder draw its image and open its writer.

        Raises:
            SlideError: The slide cannot be used by any encoder.
        """
        path = self.stage.path(entry) if self.stage else entry.slide_path
        slide = GuardedSlide(self.readers, path, entry.mpp_l0)
        found = OpenedSlides([], [], [])
        for geometry in dict.fromkeys(lane.identity.geometry for lane in self.lanes):
            lanes = [lane for lane in self.lanes if lane.identity.geometry == geometry]
            self._open(entry, slide, lanes, found)
        return found

    def _open(self, entry: SlideEntry, slide: GuardedSlide, lanes: list[Lane], found: OpenedSlides) -> None:
        """Open a slide in one geometry."""
        config, geometry = lanes[0].identity.config, lanes[0].identity.geometry
        try:
            lattice = place_regions(slide.header, config, geometry)
            mask_file = mask_of(entry, config)
            about = (entry.slide_id, lattice, slide.fingerprint(), mask_file.identity() if mask_file else "")
        except Exception as error:  # noqa: BLE001 - another geometry may do
            found.failed += [(lane, error) for lane in lanes]
            return
        wanted = []
        for lane in lanes:
            try:
                if lane.token_file(entry).exists() and not config.overwrite:
                    require_same(lane.token_file(entry), lane.identity.meta(*about))
                    found.skipped.append(lane)
                else:
                    wanted.append(lane)
            except CacheError as error:
                found.failed.append((lane, error))
        if not wanted:
            return
        jobs: list[SlideJob] = []
        try:
            plan = slide.plan(lattice, config.selection, mask_file)
            for lane in (each for each in wanted if each.identity.config.qc):
                self.draw(lane.picture(entry), plan)
            require_tissue(plan, masked=mask_file is not None)
            for lane in wanted:
                meta = lane.identity.meta(*about)
                may_drop = config.selection.allow_missing_pixels
                writer = TokenWriter(lane.token_file(entry), meta, plan.coords_l0, plan.tissue, may_drop=may_drop)
                jobs.append(SlideJob(lane, writer, lane.identity.stain(entry.slide_id)))
        except Exception as error:  # noqa: BLE001 - another geometry may do
            for job in jobs:
                job.end(keep=False)
            found.failed += [(lane, error) for lane in wanted]
            return
        reading = SlideReading(entry, slide, plan, jobs, self.stage, found.readings)
        self.opened.append(reading)
        found.readings.append(reading)
