"""Estimate of what `slpd embed` needs for a cohort, measured on a sample of its slides on this machine."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import compute
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.manifest import check_rows, read_table
from slpd_toolkit.encoders.geometry import preferred_precision, resolve_geometry
from slpd_toolkit.encoders.stream import encode_stream
from slpd_toolkit.ingest.embedding.encoder_of import encoder_of
from slpd_toolkit.ingest.embedding.readers import count_workers, make_readers
from slpd_toolkit.ingest.embedding.slide_job import mask_of, place_regions
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.slides.plan import require_tissue

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.slides.guarded_slide import SlideReaders

_SAMPLE, _READ = 8, 3
"""Slides whose regions are counted, and those of which pixels are read."""
_BLOCKS, _ENOUGH_S = 2, 10.0
_SLIDE_BYTES = 16 * 2**10
_MIB = 2**20


@dataclass(frozen=True)
class EmbeddingEstimate:
    """What embedding needs."""

    slides: int
    """Usable slides of the manifest."""
    sampled: int
    """Slides whose regions were counted."""
    failed: tuple[str, ...]
    """Messages of slides of the sample that cannot be embedded."""
    regions: tuple[int, ...]
    """Regions of each slide of the sample."""
    grid: int
    embedding_dim: int
    open_s: float
    """Seconds to open a slide and find its tissue, one core."""
    read_s: float
    """Seconds to read a patch, one core."""
    encode_s: float
    """Seconds to encode a patch on the device."""
    on_cpu: bool
    """Whether encoder and readers share the cores."""
    workers: int
    peak_mib: float
    """Memory of this process and the readers."""

    @property
    def total_regions(self) -> int:
        """Estimated number of regions of the cohort."""
        return round(self.slides * float(np.mean(self.regions)))

    @property
    def seconds(self) -> float:
        """Estimated time of embedding all slides."""
        patches = self.total_regions * self.grid**2
        reading = (self.slides * self.open_s + patches * self.read_s) / self.workers
        encoding = patches * self.encode_s
        return reading + encoding if self.on_cpu else max(reading, encoding)

    @property
    def disk_bytes(self) -> int:
        """Estimated size of the token cache: two bytes per value, and each slide's pictures and other datasets."""
        return self.total_regions * self.grid**2 * self.embedding_dim * 2 + self.slides * _SLIDE_BYTES


def estimate_embedding(config: EmbedConfig) -> EmbeddingEstimate:
    """Count the regions of a sample of slides, and read and encode a few of their patches.

    Raises:
        UsageError: The manifest, the encoder or the settings are invalid, or no slide of the sample can be read.
        WeightsError: The weights do not fit the encoder.
    """
    geometry, _ = resolve_geometry(config)
    entries, _ = check_rows(read_table(config.manifest), config.slides_root or config.manifest.parent)
    if not entries:
        raise UsageError(f"Manifest {config.manifest} has no usable slide.", hint="See manifests/README.md.")
    device = compute.resolve_devices(config.device)[0]
    precision = compute.resolve_precision(preferred_precision(config.encoder_name, config.precision, device), device)
    encoder = encoder_of(config, geometry)
    encoder.network.to(device)
    threads, readers = make_readers(1, device)
    regions, failed, opened = list[int](), list[str](), list[float]()
    patches: list[npt.NDArray[np.uint8]] = []
    read_s, read_patches = 0.0, 0
    try:
        for entry in _sample(entries):
            try:
                begun = time.perf_counter()
                count, read, pixels = _look(entry, config, geometry, readers, wanted=len(patches) < _READ)
                opened.append(time.perf_counter() - begun - read)
                regions.append(count)
                if len(pixels):
                    patches.append(pixels)
                    read_s, read_patches = read_s + read, read_patches + len(pixels)
            except SlpdError as error:
                failed.append(f"{entry.slide_id}: {error.message}")
    finally:
        readers.close()
        threads.shutdown(wait=True, cancel_futures=True)
    if not regions or not read_patches:
        raise UsageError(f"None of the sampled slides can be embedded: {failed[0] if failed else 'no pixels'}")
    batch = config.batch_size or (32 if device.type == "cpu" else 256)
    pixels = np.concatenate(patches)
    pixels = np.resize(pixels, (batch, *pixels.shape[1:]))

    def encode() -> float:
        begun = time.perf_counter()
        stream = encode_stream(
            encoder, [(0, pixels)], batch_size=batch, patch_px=geometry.patch_px, device=device, precision=precision
        )
        for _ in stream:
            pass
        return time.perf_counter() - begun

    first = encode()  # with what is prepared once
    encode_s = first if first > _ENOUGH_S else min(encode(), encode())
    workers = count_workers(config.workers)
    return EmbeddingEstimate(
        slides=len(entries),
        sampled=len(regions),
        failed=tuple(failed),
        regions=tuple(regions),
        grid=geometry.grid,
        embedding_dim=encoder.embedding_dim,
        open_s=float(np.mean(opened)),
        read_s=read_s / read_patches,
        encode_s=encode_s / batch,
        on_cpu=device.type == "cpu",
        workers=workers,
        peak_mib=peak_mib() + workers * peak_mib(resource.RUSAGE_CHILDREN),
    )


def peak_mib(who: int = resource.RUSAGE_SELF) -> float:
    """Return the peak memory of this process, or of the largest of its ended children."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MIB


def _sample(entries: Sequence[SlideEntry]) -> list[SlideEntry]:
    """Return slides that are evenly spread over the sizes of the files."""

    def size(entry: SlideEntry) -> int:
        with suppress(OSError):
            return os.stat(entry.slide_path).st_size  # noqa: PTH116 - it may be a URL
        return 0

    by_size = sorted(entries, key=lambda entry: (size(entry), entry.slide_id))
    places = (np.arange(_SAMPLE) + 0.5) / _SAMPLE * len(by_size)
    return [by_size[place] for place in dict.fromkeys(places.astype(int).tolist())]


def _look(
    entry: SlideEntry, config: EmbedConfig, geometry: Geometry, readers: SlideReaders, *, wanted: bool
) -> tuple[int, float, npt.NDArray[np.uint8]]:
    """Return the regions of a slide, the seconds spent on reading some of its patches, and these patches."""
    slide = GuardedSlide(readers, entry.slide_path, entry.mpp_l0)
    mask = mask_of(entry, config)
    plan = slide.plan(place_regions(slide.header, config, geometry), config.selection, mask)
    require_tissue(plan, masked=mask is not None)
    begun = time.perf_counter()
    blocks = list(islice(plan.blocks(), len(plan) // 2, len(plan) // 2 + _BLOCKS)) if wanted else []
    read = [slide.read_block(plan, block).patches for block in blocks]
    pixels = [each for each in read if len(each)]
    empty = np.empty((0, geometry.patch_px, geometry.patch_px, 3), np.uint8)
    return len(plan), time.perf_counter() - begun, np.concatenate(pixels) if pixels else empty
