"""Results of every model under every aggregator on the same splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.workers import release_workers
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.statistics.evaluation import fold_metrics, intervals
from slpd_toolkit.mil.statistics.results import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.training import HeadTraining
    from slpd_toolkit.mil.statistics.evaluation import Resampling
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.mil.tasks.task import Task


def evaluate_models(
    task: Task,
    cohort: Cohort,
    representations: Sequence[Representation],
    aggregators: Sequence[str],
    splits: Sequence[Split],
    *,
    training: HeadTraining,
    resampling: Resampling,
    jobs: int,
) -> tuple[Result, ...]:
    """Train heads on every representation with every aggregator, and measure their predictions.

    Args:
        task: What is predicted.
        cohort: Its slides in the order of the task's targets.
        representations: Their bags in that order too.
        aggregators: Names of files in `heads/aggregators/`.
        splits: Which slides train, select and test.
        training: How networks are trained.
        resampling: Bootstrap of the intervals; its seed is that of the heads.
        jobs: Number of processes.
    """
    results = []
    total = len(representations) * len(aggregators) * len(splits)
    with console.progress("evaluate", total=total, unit="folds") as bar:
        for representation in representations:
            for aggregator in aggregators:
                folds = []
                for fold in run_folds(
                    representation.bags, task, splits, aggregator, training=training, seed=resampling.seed, jobs=jobs
                ):
                    folds.append(fold)
                    bar.advance(1, f"{representation.name}, {aggregator}")
                values, found = fold_metrics(task, folds), intervals(task, cohort, folds, resampling)
                results.append(Result(representation.name, aggregator, tuple(folds), values, found))
    release_workers()
    return tuple(results)


def undefined_metrics(results: Sequence[Result]) -> list[str]:
    """Name the metrics that are undefined in some test parts: their means are over the other parts.

    A kappa is undefined where a model predicts a single class that is also the only true one, so it may be for some
    models only.
    """
    counts = {name: max(int(np.isnan(result.values[name]).sum()) for result in results) for name in results[0].values}
    splits = len(results[0].folds)
    return [
        f"{name} is undefined in all test parts."
        if count == splits
        else f"{name} is undefined in {count} of {splits} test parts and is the mean of the others."
        for name, count in counts.items()
        if count
    ]
