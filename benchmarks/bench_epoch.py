"""What an epoch of stage two costs beside its steps: waiting for tokens, and the boundary (embed all, cluster, match).

    python -m benchmarks.bench_epoch [--slides 1000] [--regions 60] [--sample 20] [--steps 4]

Writes a cache of `sample` slides of the real size (16 x 16 tokens of 384 numbers) and trains on it with the published
settings at batch 32. Embedding is timed on that sample and scaled by the number of regions; clustering and matching are
timed at full size, on unit vectors drawn around four centres a slide. The epoch's length is its steps times the median
step.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measure import report
from slpd_toolkit import compute
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.objectives.prototypes import build_bank
from slpd_toolkit.pretrain import run
from slpd_toolkit.store.cohort import CohortTokens
from slpd_toolkit.store.reader import TokenStore
from slpd_toolkit.training.boundary import embed_cohort
from slpd_toolkit.training.metrics import read_metrics
from slpd_toolkit.training.processes import Processes
from slpd_toolkit.training.trainer import METRICS, Trainer
from tests.token_factory import write_cache

BATCH = 32


def timed_steps(cache: Path, out: Path, steps: int) -> tuple[float, float]:
    """Regions a second and share of time waited, of a short run without prototypes' boundary in it."""
    regions = int(TokenStore.open(cache).lengths.sum())
    config = PretrainConfig(
        cache=cache,
        out=out,
        epochs=max(1, -(-steps * BATCH // regions)),
        batch_size=BATCH,
        warmup_epochs=0,
        intra_weight=0,
        inter_weight=0,
        log_every=1,
    )
    assert run(config) == 0
    rows = read_metrics(out / METRICS)[1:]
    return (
        float(np.median([float(row["regions_per_s"]) for row in rows])),
        float(np.median([float(row["data_wait"]) for row in rows])),
    )


def timed_embedding(cache: Path, out: Path) -> float:
    """Seconds a region of the boundary's forward pass, reading included."""
    config = PretrainConfig(cache=cache, out=out, batch_size=BATCH, warmup_epochs=0, min_regions=4)
    processes = Processes(0, 1, compute.resolve_device("auto"))
    trainer = Trainer(config, processes)
    tokens = CohortTokens(TokenStore.open(cache))
    started = time.perf_counter()
    embed_cohort(trainer.slpd.teacher, tokens, 14, processes, trainer.precision, config.workers)
    return (time.perf_counter() - started) / len(tokens)


def timed_clustering(slides: int, regions: int) -> float:
    """Seconds of k-means and matching for the whole cohort."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(slides, 4, 256, generator=rng)
    kind = torch.randint(4, (slides, regions), generator=rng)
    noise = torch.randn(slides, regions, 256, generator=rng)
    vectors = F.normalize(centres[torch.arange(slides)[:, None], kind] + noise, dim=-1).flatten(0, 1)
    started = time.perf_counter()
    build_bank(vectors, torch.arange(slides).repeat_interleave(regions), k=4, min_regions=32, r=1)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=60)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = write_cache(folder / "cache", [options.regions] * options.sample, grid=16, dim=384)
        regions_per_s, data_wait = timed_steps(cache, folder / "steps", options.steps)
        embedding = timed_embedding(cache, folder / "embed")
    clustering = timed_clustering(options.slides, options.regions)
    regions = options.slides * options.regions
    epoch_s, boundary_s = regions / regions_per_s, embedding * regions + clustering
    report(
        {
            "regions": regions,
            "batch": BATCH,
            "regions_per_s": regions_per_s,
            "data_wait": data_wait,
            "steps_of_an_epoch_s": round(epoch_s, 1),
            "embedding_s": round(embedding * regions, 1),
            "clustering_and_matching_s": round(clustering, 1),
            "boundary_share_of_epoch": round(boundary_s / (epoch_s + boundary_s), 4),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    )


if __name__ == "__main__":
    main()
