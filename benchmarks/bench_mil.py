"""Stage three as users run it: `slpd mil-eval` on cached embeddings, including start-up, repeats and statistics.

    python -m benchmarks.bench_mil [--slides 1000] [--regions 60] [--width 192] [--jobs 2] [--aggregator abmil knn]

Measures wall and CPU seconds of the command and all its processes, and their total peak memory (proportional set size:
shared pages count once). Regions are 1 x 1 tokens, so that `mean-tokens` returns bags of the requested width. The
planted signal is weak enough that heads train for a realistic number of steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.measure import report
from tests.cohorts import write_manifest
from tests.token_factory import write_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=60)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--signal", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--aggregator", nargs="+", default=["abmil", "knn"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(folder, args.slides, args.regions, args.width, args.signal)
        found = {aggregator: measure(folder, aggregator, args.jobs) for aggregator in args.aggregator}
    report(
        {
            "slides": args.slides,
            "regions_a_slide": args.regions,
            "width": args.width,
            "folds": 5,
            "repeats": "5 of K-NN and probe, 1 of networks",
            "jobs": args.jobs,
            **found,
        }
    )


def plant(folder: Path, slides: int, regions: int, width: int, signal: float) -> None:
    """Write tokens of noise; in the second class, a fifth of the regions of each slide is shifted in one direction."""
    (folder / "cache").mkdir()
    rng = np.random.default_rng(0)
    direction = rng.normal(size=width)
    direction /= np.linalg.norm(direction)
    rows = []
    for number in range(slides):
        bag = rng.standard_normal((regions, width))
        bag[: regions // 5] += signal * (number % 2) * direction
        write_slide(folder / "cache", f"s{number:04}", bag[:, None, None])
        rows.append({"slide_id": f"s{number:04}", "patient_id": f"p{number:04}", "label": "ab"[number % 2]})
    write_manifest(folder / "m.csv", rows)


def measure(folder: Path, aggregator: str, jobs: int) -> dict[str, Any]:
    """Run the command."""
    out = folder / aggregator
    settings = f"--manifest {folder / 'm.csv'} --model mean-tokens --jobs {jobs} --device cpu --out {out}"
    command = [sys.executable, "-m", "slpd_toolkit", "mil-eval", str(folder / "cache"), *settings.split()]
    before, start = cpu_seconds(), time.perf_counter()
    process = subprocess.Popen([*command, "--aggregator", aggregator], stdout=subprocess.DEVNULL)
    with process, PeakMemory(process.pid) as memory:
        code = process.wait()
    assert code == 0
    (result,) = json.loads((out / "metrics.json").read_text())["results"]
    return {
        "wall_s": round(time.perf_counter() - start, 1),
        "cpu_s": round(cpu_seconds() - before, 1),
        "peak_mb": round(memory.peak_mb),
        "auc": round(result["metrics"]["auc"]["mean"], 3),
        "kept": sorted({fold["kept"] for fold in result["folds"]}),
    }


def cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class PeakMemory:
    """Peak memory of a process and its children while the context lasts, sampled ten times a second (Linux)."""

    def __init__(self, process: int) -> None:
        self.peak_mb = 0.0
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak_mb = max(self.peak_mb, sum(map(proportional_mb, family(self._process))))


def family(root: int) -> list[int]:
    """Return a process and all its descendants."""
    parent_of = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent_of[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended in the meantime
    found = [root]
    for process in found:
        found += [child for child, parent in parent_of.items() if parent == process]
    return found


def proportional_mb(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
