"""The life of one slide: opened, planned, read and written, then named as complete or thrown away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import remove_leftovers
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.slides.masks import MaskFile
from slpd_toolkit.slides.plan import require_tissue
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.store import schema
from slpd_toolkit.store.token_file import require_same
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from pathlib import Path

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.ingest.embedding.identity import CacheIdentity
    from slpd_toolkit.slides.guarded_slide import SlideReaders
    from slpd_toolkit.slides.opened_slide import SlideHeader
    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan
    from slpd_toolkit.slides.regions import Lattice

QC_FOLDER = "qc"


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
        max_upsample=config.max_upsample,
    )


@dataclass
class SlideJob:
    """One slide in progress, with a writer open for its tokens."""

    entry: SlideEntry
    slide: GuardedSlide
    plan: SlidePlan
    writer: TokenWriter
    over: bool = False
    lost: int = 0
    """Patches without a token, because the file does not have their pixels."""

    def read(self, block: Block) -> BlockPixels:
        """Read a block: see `GuardedSlide.read_block`.

        Raises:
            SlideError: Pixels cannot be decoded, or the slide has ended while the block waited for its turn.
        """
        if self.over:
            raise SlideError("abandoned")
        return self.slide.read_block(self.plan, block)

    def end(self, *, keep: bool) -> None:
        """Stop reading; name the token file, or throw it away.

        Raises:
            CacheError: The disk refuses.
        """
        self.over = True
        if keep:
            self.writer.commit()
        else:
            self.writer.abort()


@dataclass(frozen=True)
class SlideOpener:
    """Opens slides, in reader threads."""

    readers: SlideReaders
    identity: CacheIdentity
    draw: Callable[[Path, SlidePlan], None]
    """Draws the picture for quality control."""
    opened: deque[SlideJob]
    """Every job that was opened, so that a run that ends early can remove its unfinished files."""

    def open(self, entry: SlideEntry) -> SlideJob | None:
        """Open a slide, find its tissue and regions, draw its picture and open its writer.

        Returns:
            The job, or None if the slide's token file is complete.

        Raises:
            SlideError: The slide cannot be used.
            CacheError: Its token file differs from what this run would write, or the disk refuses.
        """
        config, geometry = self.identity.config, self.identity.geometry
        path = config.out / f"{entry.slide_id}{schema.SUFFIX}"
        picture = config.out / QC_FOLDER / f"{entry.slide_id}.jpg"
        for target in (path, picture):
            remove_leftovers(target)
        slide = GuardedSlide(self.readers, entry.slide_path, entry.mpp_l0)
        lattice = place_regions(slide.header, config, geometry)
        mask_file = mask_of(entry, config)
        mask = mask_file.identity() if mask_file else ""
        meta = self.identity.meta(entry.slide_id, lattice, slide.fingerprint(), mask)
        if path.exists() and not config.overwrite:
            require_same(path, meta)
            return None
        plan = slide.plan(lattice, config.min_tissue, mask_file)
        if config.qc:
            self.draw(picture, plan)
        require_tissue(plan, masked=mask_file is not None)
        job = SlideJob(
            entry,
            slide,
            plan,
            TokenWriter(path, meta, plan.coords_l0, plan.tissue, may_drop=config.allow_missing_pixels),
        )
        self.opened.append(job)
        return job
