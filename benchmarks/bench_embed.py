"""Stage one, end to end, vs. the encoder alone: same patches, batch size and precision, in alternation.

    python -m benchmarks.bench_embed SLIDE --mpp-l0 0.5 [--encoder random:vit_small]

The encoder alone processes batches of random bytes with `Encoder.embed`, including normalization. The difference to
100 % is the cost of reading, decoding, resampling, tissue detection, images and writing that is not overlapped with the
encoder. On a CPU, the ratio of CPU times is also reported, which is less affected by other work on the machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.measure import report
from slpd_toolkit.commands.embed import run
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.core import compute
from slpd_toolkit.core.guarded import end_idle_processes
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.slides.regions import Lattice
from slpd_toolkit.store.token_file import TokenFile, TokenStore

if TYPE_CHECKING:
    from slpd_toolkit.encoders.encoder import Encoder

CPU_BATCH, GPU_BATCH = 32, 256


class Rate(NamedTuple):
    """Patches per second of wall time, and per second of CPU time of all cores and processes."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the reader processes, which are ended so that they are counted."""
    end_idle_processes()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def encoder_alone(encoder: Encoder, device: torch.device, batch_size: int, patches: int) -> Rate:
    """Measure patches per second of the encoder."""
    precision = compute.resolve_precision("auto", device)
    pixels = torch.randint(0, 256, (batch_size, 256, 256, 3), dtype=torch.uint8, device=device)
    tokens = encoder.embed(pixels, precision)
    rounds = max(1, patches // batch_size)
    started, started_cpu = time.perf_counter(), cpu_seconds()
    for _ in range(rounds):
        tokens = encoder.embed(pixels, precision)
    tokens.cpu()  # wait for the device
    count = rounds * batch_size
    return Rate(count / (time.perf_counter() - started), count / (cpu_seconds() - started_cpu))


def end_to_end(slide: Path, mpp_l0: str, encoder: str, copies: int) -> tuple[Rate, int]:
    """Measure patches per second of `slpd embed` on several copies, to amortize the start; also return their number."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.csv"
        rows = [f"slide{number},{slide.resolve()},{mpp_l0}" for number in range(copies)]
        manifest.write_text("\n".join(["slide_id,slide_path,mpp", *rows]), encoding="utf-8")
        config = EmbedConfig(manifest=manifest, out=Path(folder) / "cache", encoder=(encoder,))
        started, started_cpu = time.perf_counter(), cpu_seconds()
        assert run(config) == 0
        seconds, spent = time.perf_counter() - started, cpu_seconds() - started_cpu
        patches = sum(encoded_patches(file) for file in TokenStore.open(config.out).files)
    return Rate(patches / seconds, patches / spent), patches


def encoded_patches(slide: TokenFile) -> int:
    """Return the number of patches that overlap the slide; the others are padding, which is not encoded."""
    meta = slide.meta
    lattice = Lattice(
        meta.slide_width_l0,
        meta.slide_height_l0,
        meta.mpp_l0,
        meta.target_mpp,
        meta.patch_px,
        meta.region_px,
        meta.region_l0,
        1,
    )
    whole = slice(0, meta.grid)
    return sum(int(lattice.inside((int(x), int(y)), whole, whole).sum()) for x, y in slide.coords)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, help="a slide, preferably without padded regions")
    parser.add_argument("--mpp-l0", default="", help="resolution of level 0 to assume, um/px")
    parser.add_argument("--encoder", default="random:vit_small")
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = compute.resolve_device("auto")
    batch_size = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    encoder = make_encoder(options.encoder, weights=None, patch_px=256, seed=0, allow_download=False)
    encoder.network.to(device)
    rows = []
    patches = 0
    for _ in range(options.rounds):
        before = encoder_alone(encoder, device, batch_size, 20 * batch_size)
        whole, patches = end_to_end(options.slide, options.mpp_l0, options.encoder, options.copies)
        after = encoder_alone(encoder, device, batch_size, 20 * batch_size)
        rows.append(
            {
                "encoder_alone": (before.wall + after.wall) / 2,
                "end_to_end": whole.wall,
                "share": 2 * whole.wall / (before.wall + after.wall),
                "share_of_cpu_time": 2 * whole.cpu / (before.cpu + after.cpu),
            }
        )
    results = {
        "encoder": options.encoder,
        "precision": compute.resolve_precision("auto", device),
        "batch": batch_size,
        "patches_per_round": patches,
        "rounds": rows,
        "median_share": statistics.median(row["share"] for row in rows),
        "median_share_of_cpu_time": statistics.median(row["share_of_cpu_time"] for row in rows),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    report(results)


if __name__ == "__main__":
    main()
