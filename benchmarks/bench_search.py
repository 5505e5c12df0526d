"""Search among synthetic prototype sets: time to build the index and of a query, memory, recall of the coarse step.

    python -m benchmarks.bench_search --slides 100000 --out benchmarks/results/search-cpu.json

Slides are mixtures of 4 of 200 kinds in 256 dimensions, with noise: prototypes near the kinds, weights from a Dirichlet
distribution. Recall is the share of the exact ten nearest slides, by matching with all slides, that a query finds.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import machine
from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.set_similarity import Sets
from slpd_toolkit.representations.slide_index import CANDIDATES, SlideIndex
from slpd_toolkit.training.prototype_file import PrototypeFile

KINDS, CLUSTERS, WIDTH, REGIONS = 200, 4, 256, 40


def synthetic(slides: int, seed: int = 0) -> PrototypeFile:
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(KINDS, WIDTH)).astype(np.float32)
    chosen = np.argsort(rng.random((slides, KINDS)), axis=1)[:, :CLUSTERS]
    prototypes = kinds[chosen] + 0.5 * rng.standard_normal((slides, CLUSTERS, WIDTH), dtype=np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    cluster = rng.choice(CLUSTERS, size=(slides, REGIONS), p=(0.4, 0.3, 0.2, 0.1))
    regions = slides * REGIONS
    return PrototypeFile(
        slide_ids=np.array([f"slide{i:06}" for i in range(slides)], object),
        prototypes=prototypes,
        neighbours=np.zeros((slides, 1), np.int64),
        similarity=np.zeros((slides, 1), np.float32),
        counterpart=np.zeros((slides, CLUSTERS, 1), np.int64),
        region_row=np.repeat(np.arange(slides), REGIONS),
        region_cluster=cluster.ravel(),
        region_cosine=np.ones(regions, np.float32),
        region_coords=np.zeros((regions, 2), np.int64),
        region_l0=np.full(slides, 4096),
        located=np.ones(slides, np.bool_),
        step=0,
    )


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--exact", type=int, default=3, help="queries whose recall is measured")
    parser.add_argument("--file", type=Path, help="prototypes.h5 to write once and to search; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "prototypes.h5"
        if not path.exists():
            synthetic(args.slides).write(path)
            print("written; run again with --file for the memory of the search alone", flush=True)
        started, cpu = time.perf_counter(), time.process_time()
        index = SlideIndex.open(path)
        build = {"wall_s": round(time.perf_counter() - started, 2), "cpu_s": round(time.process_time() - cpu, 2)}
        memory = peak_mib()
        rng = np.random.default_rng(1)
        rows = rng.choice(len(index), args.queries, replace=False).tolist()
        index.search(index.slide_ids[0])
        walls, cpus = [], []
        for row in rows:
            started, cpu = time.perf_counter(), time.process_time()
            index.search(index.slide_ids[row])
            walls.append(time.perf_counter() - started)
            cpus.append(time.process_time() - cpu)
        recalls: dict[int, list[float]] = {CANDIDATES: [], 1000: [], 5000: []}
        for row in rows[: args.exact]:
            exact = _exact(index, row)
            for candidates, found in recalls.items():
                near = {match.row for match in index.search(index.slide_ids[row], candidates=candidates)}
                found.append(len(near & exact) / 10)
        result = {
            "command": shlex.join(["python", "-m", "benchmarks.bench_search", *sys.argv[1:]]),
            "machine": machine(),
            "slides": len(index),
            "clusters": CLUSTERS,
            "width": WIDTH,
            "build": build,
            "peak_mib_after_build": round(memory),
            "query_ms": {
                "median_wall": round(1e3 * float(np.median(walls)), 1),
                "largest_wall": round(1e3 * max(walls), 1),
                "median_cpu": round(1e3 * float(np.median(cpus)), 1),
            },
            "recall_at_10": {str(key): round(float(np.mean(found)), 3) for key, found in recalls.items()},
            "queries_with_recall": args.exact,
        }
        write_text(args.out, json.dumps(result, indent=1))
        print(json.dumps(result, indent=1))


def _exact(index: SlideIndex, row: int) -> set[int]:
    """The ten best of all slides, matched part by part."""
    values = []
    for start in range(0, len(index), 20_000):
        part = slice(start, start + 20_000)
        some = SlideIndex(index.slide_ids[part], Sets(*(array[part] for array in index.sets)))
        own = index.set_of(index.slide_ids[row])
        found = some.search(own, top=11, candidates=len(some))
        values += [(match.similarity, match.row + start) for match in found]
    others = sorted(((similarity, place) for similarity, place in values if place != row), reverse=True)
    return {place for _, place in others[:10]}


if __name__ == "__main__":
    main()
