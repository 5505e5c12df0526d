"""Embedding of slides: readers work ahead of the main thread, which encodes full batches and writes token files.

Read-ahead is bounded, so that memory does not grow with the size of slides. Pixels are read once per geometry, and
every encoder of that geometry gets them.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, SlideError
from slpd_toolkit.core.readahead import read_ahead
from slpd_toolkit.ingest.embedding.block_key import BlockKey
from slpd_toolkit.ingest.embedding.faulty import faulty_pixels, nothing_left
from slpd_toolkit.ingest.embedding.readers import count_workers, make_readers
from slpd_toolkit.ingest.embedding.slide_job import SlideOpener
from slpd_toolkit.ingest.embedding.staging import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.ingest.embedding.lane import Lane
    from slpd_toolkit.ingest.embedding.slide_job import SlideJob, SlideReading
    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan

_SLIDES_AHEAD = 2


class EmbeddingPipeline:
    """Pipeline of reading, encoding and writing.

    Args:
        lanes: The encoders, on one device.
        draw: Draws the quality-control image of a slide.
        readers: Number of reader processes; 0: as in the settings.
        share: Number of processes that share the disk of `--stage-to`.
        on_progress: Called after each part of a batch.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        draw: Callable[[Path, SlidePlan], None],
        *,
        readers: int = 0,
        share: int = 1,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._lanes, self._draw, self._on_progress = lanes, draw, on_progress
        self._share = share
        self._workers = readers or lanes[0].identity.config.workers
        self._allow_missing = lanes[0].identity.config.selection.allow_missing_pixels

    def run(self, entries: Iterable[SlideEntry], count: int) -> None:
        """Embed slides; complete ones are skipped, failing ones are recorded, and the others continue.

        Args:
            entries: The slides; consumed a few ahead.
            count: Number of slides, for the estimate of the remaining time.
        """
        threads, slide_readers = make_readers(self._workers, self._lanes[0].device)
        stage = self._stage()
        # Openers wait for copies; threads that wait must not be those that read.
        openers = ThreadPoolExecutor(_SLIDES_AHEAD + 1, "slide-opener") if stage else threads
        opener = SlideOpener(slide_readers, self._lanes, self._draw, stage, deque())
        if stage:
            entries = stage.ahead(entries, self._is_missing)
        depth = 2 * count_workers(self._workers) + 2 * self._lanes[0].batch_size // 16
        try:
            with console.progress("embed", total=1, unit="patches") as progress:
                blocks = self._blocks(self._readings(entries, openers, opener), threads, depth)
                for lane, key, tokens in self._encode(blocks):
                    _put(key, tokens)
                    lane.tally.patches += len(tokens)
                    self._on_progress()
                    progress.expect(sum(each.tally.expected_patches(count, len(each.failures)) for each in self._lanes))
                    done = min(each.tally.slides + each.tally.skipped for each in self._lanes)
                    progress.advance(len(tokens), f"{done}/{count} slides")
        finally:
            slide_readers.close()  # do not wait for reads in progress
            threads.shutdown(wait=True, cancel_futures=True)
            if stage:
                stage.close()
                openers.shutdown(wait=True, cancel_futures=True)
                console.note(stage.summary())
            for job in (job for reading in opener.opened for job in reading.jobs):
                if not job.over:
                    job.end(keep=False)

    def _readings(
        self, entries: Iterable[SlideEntry], threads: Executor, opener: SlideOpener
    ) -> Iterator[SlideReading]:
        """Open and plan slides, a few ahead of the one being read."""
        tasks = ((entry, partial(opener.open, entry)) for entry in entries)
        for entry, future in read_ahead(threads, tasks, _SLIDES_AHEAD):
            try:
                found = future.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                for lane in self._lanes:
                    lane.record(entry, error)
                _release_entry(entry, opener.stage)
                continue
            for lane, failure in found.failed:
                lane.record(entry, failure)
            for lane in found.skipped:
                lane.tally.skipped += 1
                lane.on_over(entry.slide_id)
            if not found.readings:
                _release_entry(entry, opener.stage)
            for reading in found.readings:
                while opener.opened[0].over:
                    opener.opened.popleft()
                for job in reading.jobs:
                    job.lane.tally.plan(reading)
                yield reading

    def _blocks(
        self, readings: Iterable[SlideReading], threads: Executor, depth: int
    ) -> Iterator[tuple[SlideReading, Block, BlockPixels]]:
        """Read blocks of patches ahead, in order."""
        tasks = (
            ((reading, block), partial(reading.read, block)) for reading in readings for block in reading.plan.blocks()
        )
        for (reading, block), future in read_ahead(threads, tasks, depth):
            try:
                pixels = future.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                _fail_all(reading, error)
                continue
            if (pixels.faulty & pixels.inside).any() and not self._allow_missing:
                _fail_all(reading, faulty_pixels(reading.entry, reading.plan, block, pixels))
                continue
            yield reading, block, pixels

    def _encode(
        self, blocks: Iterable[tuple[SlideReading, Block, BlockPixels]]
    ) -> Iterator[tuple[Lane, BlockKey, npt.NDArray[np.float32]]]:
        """Pass each block to all encoders that need it, and yield tokens as they become available."""
        for reading, block, pixels in blocks:
            for job in reading.jobs:
                if job.over:
                    continue
                key, patches = _store_certain(reading, job, block, pixels)
                for known, first, tokens in job.lane.stream.put(key, patches):
                    yield job.lane, known.part(first, len(tokens)), tokens
        for lane in self._lanes:
            for known, first, tokens in lane.stream.flush():
                yield lane, known.part(first, len(tokens)), tokens

    def _stage(self) -> Stage | None:
        config = self._lanes[0].identity.config
        return Stage(config.stage_to, round(config.stage_gib * 2**30), self._share) if config.stage_to else None

    def _is_missing(self, entry: SlideEntry) -> bool:
        """Whether the token file of a slide is still to be written."""
        return any(lane.identity.config.overwrite or not lane.token_file(entry).exists() for lane in self._lanes)


def _store_certain(
    reading: SlideReading, job: SlideJob, block: Block, pixels: BlockPixels
) -> tuple[BlockKey, npt.NDArray[np.uint8]]:
    """Store what needs no encoder: pure padding has the token of white, and faulty patches have none.

    Returns:
        The other patches, and where they belong.
    """
    faulty, tally = pixels.faulty & pixels.inside, job.lane.tally
    padding, real, lost = (
        BlockKey(reading, job, block.region, rows + block.rows_rc.start, columns + block.columns_rc.start)
        for rows, columns in map(np.nonzero, (~pixels.inside, pixels.inside & ~faulty, faulty))
    )
    if len(lost.rows):
        _put(lost, None)
        tally.patches_planned -= len(lost.rows)
    if len(padding.rows):
        _put(padding, job.lane.white_token.repeat(len(padding.rows), 0))
        tally.patches_planned -= len(padding.rows)
    return real, pixels.patches[~faulty[pixels.inside]] if len(lost.rows) else pixels.patches


def _put(key: BlockKey, tokens: npt.NDArray[np.float32] | None) -> None:
    """Store tokens, or None for patches without tokens; completes the file of a slide with its last ones."""
    job, reading = key.job, key.reading
    if job.over:
        return
    try:
        if tokens is None:
            job.writer.drop(key.region, key.rows, key.columns)
            job.lost += len(key.rows)
        else:
            job.writer.put(key.region, key.rows, key.columns, tokens)
        if job.writer.complete:
            if job.lost == len(reading.plan) * reading.plan.lattice.grid**2:
                raise nothing_left(reading.entry)
            reading.end(job, keep=True)
            job.lane.tally.finish(reading, job)
            job.lane.on_over(reading.entry.slide_id)
    except (CacheError, SlideError) as error:
        _fail(reading, job, error)


def _release_entry(entry: SlideEntry, stage: Stage | None) -> None:
    if stage:
        stage.release(entry)


def _fail_all(reading: SlideReading, error: Exception) -> None:
    """Abandon a slide for all encoders that still need it."""
    for job in reading.jobs:
        if not job.over:
            _fail(reading, job, error)


def _fail(reading: SlideReading, job: SlideJob, error: Exception) -> None:
    if not job.over:  # it is over if the file was complete, but its last bytes could not be written
        reading.end(job, keep=False)
    job.lane.record(reading.entry, error)
