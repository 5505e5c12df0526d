"""`slpd embed --tissue-only`: the masks and images of slides, without an encoder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core import console
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.readahead import read_ahead
from slpd_toolkit.ingest.embedding.lane import QC_FOLDER, STAGE
from slpd_toolkit.ingest.embedding.readers import count_workers, make_readers
from slpd_toolkit.ingest.embedding.slide_job import mask_of, place_regions
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.slides.plan import require_tissue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.slides.guarded_slide import SlideReaders
    from slpd_toolkit.slides.plan import SlidePlan


def write_masks(
    entries: list[SlideEntry],
    config: EmbedConfig,
    geometry: Geometry,
    failures: FailureLog,
    draw: Callable[[Path, SlidePlan], None],
) -> int:
    """Find the tissue of slides and draw it; slides that fail are recorded, and the others continue.

    Returns:
        Number of slides that were drawn.
    """
    threads, readers = make_readers(config.workers, torch.device("cpu"))
    drawn = 0
    try:
        tasks = ((entry, partial(_find_tissue, entry, config, geometry, readers, draw)) for entry in entries)
        with console.progress("tissue", total=len(entries), unit="slides") as progress:
            for entry, future in read_ahead(threads, tasks, count_workers(config.workers)):
                try:
                    future.result()
                    drawn += 1
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                    failures.add(Failure.of(STAGE, entry.slide_id, entry.slide_path, error))
                    console.warn(f"{entry.slide_id}: {error}")
                progress.advance(1)
    finally:
        readers.close()
        threads.shutdown(wait=True, cancel_futures=True)
    return drawn


def _find_tissue(
    entry: SlideEntry,
    config: EmbedConfig,
    geometry: Geometry,
    readers: SlideReaders,
    draw: Callable[[Path, SlidePlan], None],
) -> None:
    slide = GuardedSlide(readers, entry.slide_path, entry.mpp_l0)
    lattice = place_regions(slide.header, config, geometry)
    plan = slide.plan(lattice, config.selection, mask_of(entry, config))
    draw(config.out / QC_FOLDER / f"{entry.slide_id}.jpg", plan)
    require_tissue(plan, masked=entry.mask_path is not None)
