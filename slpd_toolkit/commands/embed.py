"""Stage one: slides to a token cache.

    entries -> open slides -> blocks of patches -> batches -> tokens -> one writer a slide

Threads open slides and decode blocks ahead of the main thread, which fills batches across regions and slides, encodes
them and writes. What is read ahead is bounded, so memory does not grow with the slide.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.config.recipe import as_recipe
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import CacheError, SlideError, UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import fingerprint, make_folder, remove_leftovers
from slpd_toolkit.core.manifest import check_rows, read_table, summarise
from slpd_toolkit.core.readahead import read_ahead
from slpd_toolkit.core.version import __version__
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.encoders.stream import encode_stream
from slpd_toolkit.report.qc import draw_overlay, write_contact_sheet
from slpd_toolkit.slides.plan import plan_slide, read_block, require_tissue
from slpd_toolkit.slides.regions import Lattice, lay_lattice
from slpd_toolkit.slides.slide import Slide
from slpd_toolkit.store import schema
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.token_file import require_same, require_same_run
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    import numpy.typing as npt

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.slides.plan import Block, SlidePlan

    K = TypeVar("K")

STAGE = "embed"
QC_FOLDER = "qc"
_MAX_WORKERS = 16
_SLIDES_AHEAD = 2
_NICER = 5  # readers than the encoder


@dataclass
class Job:
    """One slide on its way: open for reading, with a writer open for its tokens."""

    entry: SlideEntry
    slide: Slide
    plan: SlidePlan
    writer: TokenWriter
    over: bool = False

    def end(self, *, keep: bool) -> None:
        """Stop reading; name the token file, or throw it away.

        Raises:
            CacheError: The disk refuses.
        """
        self.over = True
        self.slide.close()
        if keep:
            self.writer.commit()
        else:
            self.writer.abort()


@dataclass(frozen=True)
class BlockKey:
    """Where the tokens of a block belong: grid rows and columns of its patches, (n,) each, in a region of a slide."""

    job: Job
    region: int
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]


@dataclass
class Tally:
    """What the run has done so far."""

    slides: int = 0
    skipped: int = 0
    regions: int = 0
    patches: int = 0
    bytes: int = 0
    planned: int = 0
    patches_planned: int = 0
    started: float = field(default_factory=time.monotonic)


def run(config: EmbedConfig) -> int:
    """Embed the slides of a manifest, or a shard of them, into the cache `config.out`.

    Returns:
        0, or 1 if some slides failed.

    Raises:
        UsageError: The manifest, the encoder or the settings are wrong, or the cache holds another encoder or geometry.
        WeightsError: The encoder's weights do not fit.
    """
    table = read_table(config.manifest)
    entries, problems = check_rows(table, config.slides_root or config.manifest.parent)
    if not entries:
        raise UsageError(
            f"Manifest {config.manifest} has no usable slide:\n{summarise(problems)}", hint="See manifests/README.md."
        )
    if problems:
        console.warn(f"{config.manifest}: {len(problems)} problems; these rows are left out:\n{summarise(problems)}")
    index, count = config.shard_of_n
    mine = set(table.index[index - 1 :: count])
    stage = EmbedStage(config, {entry.slide_id for entry in entries})
    for problem in problems:
        if problem.row in mine:
            stage.failures.add(Failure(STAGE, problem.slide_id, problem.slide_path, problem.error, problem.hint))
    with compute.within_memory("Lower --batch-size; finished slides are kept."):
        stage.embed([entry for entry in entries if entry.row in mine])
    if config.qc:
        write_contact_sheet(config.out, config.out / QC_FOLDER, stage.failures.rows)
    stage.print_summary()
    return 1 if stage.failures.rows else 0


class EmbedStage:
    """One run of stage one: its settings and encoder, and the loop that joins reading, encoding and writing.

    Args:
        config: Settings.
        slide_ids: All slides of the manifest, which `--overwrite` may replace, by this part of an array job or another.

    Raises:
        UsageError: A setting cannot be met, or the cache holds another encoder or geometry; nothing was written.
        WeightsError: The encoder's weights do not fit.
    """

    def __init__(self, config: EmbedConfig, slide_ids: set[str]) -> None:
        self._config = config
        self._device = compute.resolve_device(config.device)
        self._precision = compute.resolve_precision(config.precision, self._device)
        self._encoder = self._make_encoder()
        self._workers = config.workers or min(os.cpu_count() or 1, _MAX_WORKERS)
        self._batch_size = config.batch_size or (32 if self._device.type == "cpu" else 256)
        self._recipe = json.dumps(as_recipe(config), sort_keys=True)
        self._check_cache(slide_ids)
        make_folder(config.out / QC_FOLDER if config.qc else config.out)
        part, parts = config.shard_of_n
        name = FILENAME if parts == 1 else FILENAME.replace(".csv", f".{part}-of-{parts}.csv")
        self.failures = FailureLog(config.out / name)
        self._tally = Tally()

    def _make_encoder(self) -> Encoder:
        config = self._config
        encoder = make_encoder(
            config.encoder,
            weights=config.weights,
            patch_px=config.patch_px,
            seed=config.seed,
            allow_download=config.allow_download,
        )
        encoder.network.to(self._device)
        console.note(
            f"Encoder {encoder.name}: {encoder.embedding_dim}-d, weights {encoder.weights_sha256[:12]}, "
            f"{self._precision} on {compute.describe(self._device)}"
        )
        if config.encoder.startswith("random"):
            console.note(
                "Its weights are random: an untrained baseline. For a pathology model: --encoder hipt --weights FILE."
            )
        if config.encoder == "handcrafted":
            console.note(
                "It measures stain and texture, unlearned. For a pathology model: --encoder hipt --weights FILE."
            )
        return encoder

    def _check_cache(self, slide_ids: set[str]) -> None:
        """Refuse to mix encoders or geometries in one cache, before any work starts."""
        config = self._config
        lattice = Lattice(0, 0, 1.0, config.mpp, config.patch_px, config.region_px, 1, 1)
        require_same_run(config.out, self._meta("", lattice, ""), slide_ids if config.overwrite else ())

    def _encode(
        self, patches: Iterable[tuple[K, npt.NDArray[np.uint8]]]
    ) -> Iterator[tuple[K, int, npt.NDArray[np.float32]]]:
        return encode_stream(
            self._encoder,
            patches,
            batch_size=self._batch_size,
            patch_px=self._config.patch_px,
            device=self._device,
            precision=self._precision,
        )

    def embed(self, entries: list[SlideEntry]) -> None:
        """Embed slides; complete ones are skipped, failing ones are recorded, and the others go on."""
        jobs: deque[Job] = deque()
        initializer = _give_way if self._device.type == "cpu" else None
        readers = ThreadPoolExecutor(self._workers, thread_name_prefix="slide-reader", initializer=initializer)
        try:
            with console.progress("embed", total=1, unit="patches") as progress:
                for key, first, values in self._encode(self._blocks(self._jobs(entries, readers, jobs), readers)):
                    part = slice(first, first + len(values))
                    self._put(key.job, key.region, key.rows[part], key.columns[part], values)
                    self._tally.patches += len(values)
                    progress.expect(self._expected_patches(len(entries)))
                    progress.advance(len(values), f"{self._tally.slides + self._tally.skipped}/{len(entries)} slides")
        finally:
            readers.shutdown(wait=True, cancel_futures=True)
            for job in jobs:
                if not job.over:
                    job.end(keep=False)

    def _jobs(self, entries: Iterable[SlideEntry], readers: ThreadPoolExecutor, jobs: deque[Job]) -> Iterator[Job]:
        """Open and plan slides, a few ahead of the one that is read."""
        tasks = ((entry, partial(self._open, entry, jobs)) for entry in entries)
        for entry, future in read_ahead(readers, tasks, _SLIDES_AHEAD):
            try:
                job = future.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                self.failures.add(Failure.of(STAGE, entry.slide_id, entry.slide_path, error))
                console.warn(f"{entry.slide_id}: {error}")
                continue
            if job is None:
                self._tally.skipped += 1
                continue
            while jobs[0].over:
                jobs.popleft()
            self._tally.planned += 1
            self._tally.patches_planned += len(job.plan) * job.plan.lattice.grid**2
            yield job

    def _open(self, entry: SlideEntry, jobs: deque[Job]) -> Job | None:
        """Open a slide, find its tissue and regions, draw its picture, open its writer; None if it is complete.

        Runs in a reader thread. The job goes into `jobs` here, so that a run that ends before it comes to this slide
        knows of its unfinished file.
        """
        config, path = self._config, self._config.out / f"{entry.slide_id}{schema.SUFFIX}"
        picture = config.out / QC_FOLDER / f"{entry.slide_id}.jpg"
        for target in (path, picture):
            remove_leftovers(target)
        slide = Slide(entry.slide_path, entry.mpp_l0)
        try:
            lattice = lay_lattice(
                slide,
                target_mpp=config.mpp,
                patch_px=config.patch_px,
                region_px=config.region_px,
                max_upsample=config.max_upsample,
            )
            meta = self._meta(entry.slide_id, lattice, fingerprint(entry.slide_path))
            if path.exists() and not config.overwrite:
                require_same(path, meta)
                slide.close()
                return None
            plan = plan_slide(slide, lattice, config.min_tissue)
            if config.qc:
                draw_overlay(picture, plan)
            require_tissue(plan)
            job = Job(entry, slide, plan, TokenWriter(path, meta, plan.coords_l0, plan.tissue))
        except BaseException:
            slide.close()
            raise
        jobs.append(job)
        return job

    def _blocks(
        self, jobs: Iterable[Job], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[BlockKey, npt.NDArray[np.uint8]]]:
        """Read blocks of patches ahead, in order; patches that are pure padding get the token of white at once."""
        depth = 2 * self._workers + 2 * self._batch_size // 16
        tasks = (((job, block), partial(_read_unless_over, job, block)) for job in jobs for block in job.plan.blocks())
        for (job, block), future in read_ahead(readers, tasks, depth):
            try:
                patches, inside = future.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                if not job.over:
                    self._fail(job, error)
                continue
            if job.over:
                continue
            rows, columns = np.nonzero(~inside)
            if len(rows):
                self._put(
                    job,
                    block.region,
                    rows + block.rows_rc.start,
                    columns + block.columns_rc.start,
                    self._white_token.repeat(len(rows), 0),
                )
                self._tally.patches_planned -= len(rows)
            rows, columns = np.nonzero(inside)
            yield BlockKey(job, block.region, rows + block.rows_rc.start, columns + block.columns_rc.start), patches

    @cached_property
    def _white_token(self) -> npt.NDArray[np.float32]:
        """The token of a white patch, (1, D), which all padding outside a slide gets; it costs one batch."""
        patch_px = self._config.patch_px
        white = np.full((1, patch_px, patch_px, 3), 255, np.uint8)
        return next(tokens for _, _, tokens in self._encode([(None, white)]))

    def _put(
        self,
        job: Job,
        region: int,
        rows: npt.NDArray[np.intp],
        columns: npt.NDArray[np.intp],
        tokens: npt.NDArray[np.float32],
    ) -> None:
        """Store tokens; the last ones of a slide complete its file."""
        if job.over:
            return
        try:
            job.writer.put(region, rows, columns, tokens)
            if job.writer.complete:
                job.end(keep=True)
                self._tally.slides += 1
                self._tally.regions += len(job.plan)
                self._tally.bytes += job.writer.path.stat().st_size
        except CacheError as error:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        if not job.over:  # it is when the file was complete, and the disk refused its last bytes
            job.end(keep=False)
        self.failures.add(Failure.of(STAGE, job.entry.slide_id, job.entry.slide_path, error))
        console.warn(f"{job.entry.slide_id}: {error}")

    def _expected_patches(self, slides: int) -> float:
        """Estimate how many patches the run encodes in all, from the slides planned so far."""
        tally = self._tally
        unseen = slides - tally.skipped - tally.planned - len(self.failures.rows)
        return tally.patches_planned * (1 + max(0, unseen) / max(1, tally.planned))

    def _meta(self, slide_id: str, lattice: Lattice, slide_fingerprint: str) -> TokenMeta:
        return TokenMeta(
            slide_id=slide_id,
            slide_width_l0=lattice.width_l0,
            slide_height_l0=lattice.height_l0,
            slide_fingerprint=slide_fingerprint,
            mpp_l0=lattice.mpp_l0,
            target_mpp=lattice.target_mpp,
            effective_mpp=lattice.effective_mpp,
            upsampling=lattice.upsampling,
            patch_px=lattice.patch_px,
            region_px=lattice.region_px,
            region_l0=lattice.region_l0,
            min_tissue=self._config.min_tissue,
            encoder=self._encoder.name,
            encoder_sha256=self._encoder.weights_sha256,
            encoder_input_px=self._encoder.input_px,
            embedding_dim=self._encoder.embedding_dim,
            mean=self._encoder.mean,
            std=self._encoder.std,
            precision=self._precision,
            toolkit_version=__version__,
            recipe=self._recipe,
        )

    def print_summary(self) -> None:
        """Print what was done, and where the failures are listed."""
        tally, seconds = self._tally, time.monotonic() - self._tally.started
        console.table(
            f"Token cache {self._config.out}",
            [
                {
                    "slides": tally.slides,
                    "skipped": tally.skipped,
                    "failed": len(self.failures.rows),
                    "regions": tally.regions,
                    "patches": tally.patches,
                    "patches/s": tally.patches / seconds,
                    "time": console.human_seconds(seconds),
                    "size": console.human_bytes(tally.bytes),
                }
            ],
        )
        if self.failures.rows:
            console.warn(f"{len(self.failures.rows)} slides failed: {self.failures.path} says why and what to do.")
        if self._config.qc:
            console.note(
                f"Look at {self._config.out / QC_FOLDER / 'index.html'}: is the outlined tissue what you would outline?"
            )


def _read_unless_over(job: Job, block: Block) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    if job.over:  # the slide failed while this block waited its turn
        raise SlideError("abandoned")
    return read_block(job.slide, job.plan, block)


def _give_way() -> None:
    """Let the encoder run before this thread, where both want a core.

    A CPU encoder computes in step on all cores: a reader that takes one of them keeps the others waiting too, so each
    second of reading would cost two. At lower priority it runs when the encoder has nothing to do, and then on all
    cores. Not at the lowest: beside another busy program a reader would hardly run, and the encoder wait for it.
    """
    if sys.platform == "linux":  # elsewhere, priorities are of processes only
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)
