"""Statistics of `slpd mil-eval` from simulated predictions: CPU seconds by the number of patients, one slide each.

    python -m benchmarks.bench_statistics --patients 5000 10000 20000 --out benchmarks/results/statistics-cpu.json

Measured are, with five folds: metrics, influences and intervals of one model (`judge`), the comparison of two models by
2 000 swaps (`compare`), and for classes the AUC within and across 20 sites with 2 000 samples (`sites`). The times of
survival have ties and 70 % censoring, and a model predicts 16 survival probabilities per patient.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import machine
from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.evaluation import Permutations, compare, intervals, judge
from slpd_toolkit.mil.statistics.site_auc import auc_of_pairs
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.survival import Survival

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.tasks.task import Task

FOLDS, SITES = 5, 20


def simulate(patients: int, kind: str) -> tuple[Task, Cohort, list[FloatArray]]:
    """Return a task, its cohort, and the outputs of two models for all patients."""
    rng = np.random.default_rng(0)
    slides = np.array([f"S{number:06}" for number in range(patients)])
    signal = rng.standard_normal(patients)
    scores = [signal + rng.standard_normal(patients) for _ in range(2)]
    if kind == "classes":
        targets = (signal + rng.standard_normal(patients) > 0).astype(np.int64)
        shares = [1 / (1 + np.exp(-each)) for each in scores]
        outputs = [np.stack([1 - each, each], axis=1) for each in shares]
        return Classification(("a", "b"), targets), Cohort(slides, slides, np.array(["a", "b"])[targets]), outputs
    times, events = np.ceil(100 * rng.exponential(np.exp(-signal))), rng.random(patients) < 0.3
    task = Survival(times, events)
    hazards = [np.exp(each)[:, None] * task.grid / 100 for each in scores]
    outputs = [np.column_stack([each, np.exp(-hazard)]) for each, hazard in zip(scores, hazards, strict=True)]
    return task, Cohort(slides, slides, task.strata), outputs


def fold_predictions(cohort: Cohort, splits: Sequence[Split], outputs: FloatArray) -> list[FoldPrediction]:
    """Divide outputs among the test parts."""
    row = {slide: number for number, slide in enumerate(cohort.slides.tolist())}
    parts = [np.array([row[slide] for slide in split.test], np.int64) for split in splits]
    return [FoldPrediction(0, number, part, outputs[part], 0, "") for number, part in enumerate(parts)]


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of a function, s."""
    start = time.process_time()
    work()
    return round(time.process_time() - start, 2)


def measure(patients: int, kind: str) -> dict[str, float]:
    """Measure one cohort."""
    task, cohort, outputs = simulate(patients, kind)
    splits = cross_validation(cohort, folds=FOLDS, seed=0)
    one, other = (fold_predictions(cohort, splits, each) for each in outputs)
    first, second = (judge(task, cohort, splits, each) for each in (one, other))
    found = {
        "judge": cpu_seconds(lambda: intervals(task, judge(task, cohort, splits, one))),
        "compare": cpu_seconds(lambda: compare(task, first, second, Permutations())),
    }
    if kind == "classes":
        sites = np.array([f"site {number % SITES}" for number in range(patients)])
        found["sites"] = cpu_seconds(lambda: auc_of_pairs(task, cohort, one, sites, 0))
    return found


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[5000, 10000, 20000])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = {
        "command": shlex.join(["python", "-m", "benchmarks.bench_statistics", *sys.argv[1:]]),
        "machine": machine(),
        **{kind: {str(n): measure(n, kind) for n in chosen.patients} for kind in ("classes", "survival")},
    }
    print(json.dumps(found, indent=2))
    if chosen.out:
        write_text(chosen.out, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
