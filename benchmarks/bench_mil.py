"""Speed and memory of stage three: python benchmarks/bench_mil.py [--slides 1000] [--regions 60] [--jobs 2] ...

Prints, for gated ABMIL and for K-NN, the wall time of ten folds and the peak memory of this process and its workers
together (proportional set size: pages that processes share count once). The signal is planted, and weak enough that
heads train for a realistic number of steps.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort import Cohort
from slpd_toolkit.mil.folds import FoldPrediction, run_folds
from slpd_toolkit.mil.splits import cross_validation
from slpd_toolkit.mil.tasks import Classification
from slpd_toolkit.mil.training import HeadTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=60)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--signal", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--aggregator", nargs="+", default=["abmil", "knn"])
    args = parser.parse_args()
    cohort, bags, task = planted(args.slides, args.regions, args.width, args.signal)
    splits = cross_validation(cohort, folds=10)
    print(f"{args.slides} slides x {args.regions} regions x {args.width}, 10 folds, {args.jobs} jobs")
    for aggregator in args.aggregator:
        with PeakMemory() as memory:
            start = time.perf_counter()
            folds = list(run_folds(bags, task, splits, aggregator, training=HeadTraining(), seed=0, jobs=args.jobs))
            seconds = time.perf_counter() - start
        print(f"{aggregator}: {seconds:.1f} s, peak {memory.peak_mb:.0f} MB, {summary(task, folds)}")


def planted(slides: int, regions: int, width: int, signal: float) -> tuple[Cohort, Bags, Classification]:
    """Noise, with a shift along one direction in a fifth of the regions of every slide of the second class."""
    rng = np.random.default_rng(0)
    targets = np.arange(slides) % 2
    direction = rng.normal(size=width)
    direction /= np.linalg.norm(direction)
    loose = {}
    for index, target in enumerate(targets):
        bag = rng.standard_normal((regions, width), dtype=np.float32)
        bag[: regions // 5] += np.float32(signal * target) * direction.astype(np.float32)
        loose[f"s{index:04d}"] = bag
    names = np.array(list(loose))
    task = Classification(("a", "b"), targets.astype(np.int64))
    return Cohort(names, names, task.strata), Bags.pack(loose), task


def summary(task: Classification, folds: list[FoldPrediction]) -> str:
    auc = np.mean([task.metrics(fold.rows, fold.outputs)["auc"] for fold in folds])
    steps = [fold.checks[-1].step for fold in folds if fold.checks]
    trained = f", {min(steps)} to {max(steps)} steps a fold" if steps else ""
    return f"mean AUC {auc:.3f}{trained}"


class PeakMemory:
    """Peak memory of this process and its children while the context lasts, sampled ten times a second (Linux)."""

    def __enter__(self) -> Self:
        self.peak_mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak_mb = max(self.peak_mb, sum(map(proportional_mb, family())))


def family() -> list[int]:
    """This process and all its descendants."""
    parent_of = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent_of[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it ended meanwhile
    found = [int(Path("/proc/self").resolve().name)]
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
