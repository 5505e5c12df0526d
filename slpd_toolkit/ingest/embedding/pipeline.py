"""From slides to token files: readers work ahead of the main thread, which encodes full batches and writes.

What is read ahead is bounded, so memory does not grow with the slide.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, SlideError
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.readahead import read_ahead
from slpd_toolkit.encoders.stream import encode_stream
from slpd_toolkit.ingest.embedding.faulty import faulty_pixels, nothing_left
from slpd_toolkit.ingest.embedding.readers import count_workers, make_readers
from slpd_toolkit.ingest.embedding.slide_job import SlideOpener
from slpd_toolkit.ingest.embedding.tally import EmbedTally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from pathlib import Path
    from typing import TypeVar

    import numpy.typing as npt
    import torch

    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.ingest.embedding.identity import CacheIdentity
    from slpd_toolkit.ingest.embedding.slide_job import SlideJob
    from slpd_toolkit.slides.plan import SlidePlan

    K = TypeVar("K")

STAGE = "embed"
_SLIDES_AHEAD = 2


@dataclass(frozen=True)
class BlockKey:
    """Where the tokens of a block belong: grid rows and columns of its patches, (n,) each, in a region of a slide."""

    job: SlideJob
    region: int
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]

    def part(self, first: int, count: int) -> BlockKey:
        """Return the key of `count` of the patches, from `first` on."""
        chosen = slice(first, first + count)
        return BlockKey(self.job, self.region, self.rows[chosen], self.columns[chosen])


class EmbeddingPipeline:
    """Joins reading, encoding and writing.

    Args:
        identity: Encoder, on `device`, and settings.
        device: Where the encoder computes.
        failures: Where slides that fail are recorded.
        draw: Draws a slide's picture for quality control.
    """

    def __init__(
        self,
        identity: CacheIdentity,
        device: torch.device,
        failures: FailureLog,
        draw: Callable[[Path, SlidePlan], None],
    ) -> None:
        self._identity, self._device, self._failures, self._draw = identity, device, failures, draw
        self._batch_size = identity.config.batch_size or (32 if device.type == "cpu" else 256)
        self.tally = EmbedTally()

    def run(self, entries: list[SlideEntry]) -> None:
        """Embed slides; complete ones are skipped, failing ones are recorded, and the others continue."""
        threads, slide_readers = make_readers(self._identity.config.workers, self._device)
        opener = SlideOpener(slide_readers, self._identity, self._draw, deque())
        depth = 2 * count_workers(self._identity.config.workers) + 2 * self._batch_size // 16
        try:
            with console.progress("embed", total=1, unit="patches") as progress:
                blocks = self._blocks(self._jobs(entries, threads, opener), threads, depth)
                for key, first, tokens in self._encode(blocks):
                    self._put(key.part(first, len(tokens)), tokens)
                    tally = self.tally
                    tally.patches += len(tokens)
                    progress.expect(tally.expected_patches(len(entries), len(self._failures)))
                    progress.advance(len(tokens), f"{tally.slides + tally.skipped}/{len(entries)} slides")
        finally:
            slide_readers.close()  # reads that still run are not waited for
            threads.shutdown(wait=True, cancel_futures=True)
            for job in opener.opened:
                if not job.over:
                    job.end(keep=False)

    def _jobs(self, entries: Iterable[SlideEntry], threads: Executor, opener: SlideOpener) -> Iterator[SlideJob]:
        """Open and plan slides, a few ahead of the one that is read."""
        tasks = ((entry, partial(opener.open, entry)) for entry in entries)
        for entry, future in read_ahead(threads, tasks, _SLIDES_AHEAD):
            try:
                job = future.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                self._record(entry, error)
                continue
            if job is None:
                self.tally.skipped += 1
                continue
            while opener.opened[0].over:
                opener.opened.popleft()
            self.tally.plan(job)
            yield job

    def _blocks(
        self, jobs: Iterable[SlideJob], threads: Executor, depth: int
    ) -> Iterator[tuple[BlockKey, npt.NDArray[np.uint8]]]:
        """Read blocks of patches ahead, in order; patches that are pure padding get the token of white at once."""
        tasks = (((job, block), partial(job.read, block)) for job in jobs for block in job.plan.blocks())
        for (job, block), future in read_ahead(threads, tasks, depth):
            try:
                pixels = future.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                if not job.over:
                    self._fail(job, error)
                continue
            if job.over:
                continue
            faulty = pixels.faulty & pixels.inside
            if faulty.any() and not self._identity.config.allow_missing_pixels:
                self._fail(job, faulty_pixels(job.entry, job.plan, block, pixels))
                continue
            padding, real, lost = (
                BlockKey(job, block.region, rows + block.rows_rc.start, columns + block.columns_rc.start)
                for rows, columns in map(np.nonzero, (~pixels.inside, pixels.inside & ~faulty, faulty))
            )
            if len(lost.rows):
                self._put(lost, None)
                self.tally.patches_planned -= len(lost.rows)
            if len(padding.rows):
                self._put(padding, self._white_token.repeat(len(padding.rows), 0))
                self.tally.patches_planned -= len(padding.rows)
            yield real, pixels.patches[~faulty[pixels.inside]] if len(lost.rows) else pixels.patches

    def _encode(
        self, patches: Iterable[tuple[K, npt.NDArray[np.uint8]]]
    ) -> Iterator[tuple[K, int, npt.NDArray[np.float32]]]:
        return encode_stream(
            self._identity.encoder,
            patches,
            batch_size=self._batch_size,
            patch_px=self._identity.geometry.patch_px,
            device=self._device,
            precision=self._identity.precision,
        )

    @cached_property
    def _white_token(self) -> npt.NDArray[np.float32]:
        """The token of a white patch, (1, D), for all padding outside a slide; it costs one batch."""
        patch_px = self._identity.geometry.patch_px
        white = np.full((1, patch_px, patch_px, 3), 255, np.uint8)
        return next(tokens for _, _, tokens in self._encode([(None, white)]))

    def _put(self, key: BlockKey, tokens: npt.NDArray[np.float32] | None) -> None:
        """Store tokens, or None where patches have none; the last ones of a slide complete its file."""
        job = key.job
        if job.over:
            return
        try:
            if tokens is None:
                job.writer.drop(key.region, key.rows, key.columns)
                job.lost += len(key.rows)
            else:
                job.writer.put(key.region, key.rows, key.columns, tokens)
            if job.writer.complete:
                if job.lost == len(job.plan) * job.plan.lattice.grid**2:
                    raise nothing_left(job.entry)
                job.end(keep=True)
                self.tally.finish(job)
        except (CacheError, SlideError) as error:
            self._fail(job, error)

    def _fail(self, job: SlideJob, error: Exception) -> None:
        if not job.over:  # it is over when the file was complete, and the disk refused its last bytes
            job.end(keep=False)
        self._record(job.entry, error)

    def _record(self, entry: SlideEntry, error: Exception) -> None:
        self._failures.add(Failure.of(STAGE, entry.slide_id, entry.slide_path, error))
        console.warn(f"{entry.slide_id}: {error}")
