"""Results of every model with every aggregator on the same splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import DeviceMemoryError
from slpd_toolkit.core.workers import WorkerKilledError, release_workers
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.head import load_head
from slpd_toolkit.mil.statistics.calibration import calibrate
from slpd_toolkit.mil.statistics.evaluation import intervals, judge
from slpd_toolkit.mil.statistics.results import Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.core.errors import SlpdError
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.training import HeadTraining
    from slpd_toolkit.mil.statistics.evaluation import CountedUnit, Judgement
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True)
class Counting:
    """Units that metrics count, and units that intervals and tests treat as independent."""

    unit: CountedUnit = "patient"
    """Whether metrics count patients or slides."""
    sensitivity: float | None = None
    """Wanted of thresholds; None for Youden's index."""
    by_site: bool = False
    """Whether whole sites were split, so that sites are independent, but patients of a site are not."""


def evaluate_models(
    task: Task,
    cohort: Cohort,
    representations: Sequence[Representation],
    repeats_of: Mapping[str, int],
    splits: Sequence[Split],
    *,
    training: HeadTraining,
    counting: Counting,
    seed: int,
    jobs: int,
) -> tuple[tuple[Result, ...], tuple[Judgement, ...], dict[str, SlpdError]]:
    """Train heads on every representation with every aggregator, and measure their predictions.

    Args:
        task: Prediction task.
        cohort: Slides in the order of the task's targets.
        representations: Representations, with bags in the same order.
        repeats_of: Number of repeats of the splits for each aggregator, by name of the file in `heads/aggregators/`.
        splits: Training, validation and test slides.
        training: Training settings of networks.
        counting: Units of metrics, intervals and tests.
        seed: Seed of the heads.
        jobs: Number of processes.

    Returns:
        The results; for each of them what comparisons need; and by aggregator why it has none: an aggregator whose
        memory runs out is left out for all models.

    Raises:
        SlpdError: No aggregator has results.
    """
    results: list[Result] = []
    judgements: list[Judgement] = []
    problems: dict[str, SlpdError] = {}
    splits_of = {name: [each for each in splits if each.repeat < count] for name, count in repeats_of.items()}
    total = len(representations) * sum(map(len, splits_of.values()))
    with console.progress("evaluate", total=total, unit="folds") as bar:
        for representation in representations:
            for aggregator, chosen in splits_of.items():
                if aggregator in problems:
                    continue
                folds = []
                try:
                    for fold in run_folds(
                        representation.bags,
                        task,
                        chosen,
                        aggregator,
                        descriptor=representation.descriptor,
                        training=training,
                        seed=seed,
                        jobs=jobs,
                    ):
                        folds.append(fold)
                        bar.advance(1, f"{representation.name}, {aggregator}")
                except (DeviceMemoryError, WorkerKilledError) as error:
                    problems[aggregator] = error
                    console.warn(f"{aggregator} is left out. {error}")
                    continue
                judgement = judge(
                    task,
                    cohort,
                    chosen,
                    folds,
                    unit=counting.unit,
                    by_site=counting.by_site,
                    linear=load_head(aggregator).linear,
                )
                found = intervals(task, judgement)
                calibration = calibrate(
                    task,
                    cohort,
                    representation.bags,
                    chosen,
                    folds,
                    judgement,
                    unit=counting.unit,
                    sensitivity=counting.sensitivity,
                )
                judgements.append(judgement)
                results.append(
                    Result(representation.name, aggregator, tuple(folds), judgement.values, found, calibration)
                )
    release_workers()
    kept = [index for index, result in enumerate(results) if result.aggregator not in problems]
    if not kept:
        raise next(iter(problems.values()))
    return tuple(results[index] for index in kept), tuple(judgements[index] for index in kept), problems


def missing_intervals(results: Sequence[Result], headline: str) -> list[str]:
    """Return notes on the reason if the headline metric has no interval."""
    reasons = {result.intervals[headline].reason for result in results} - {""}
    return [f"No interval and no t-test can be computed: {reason}." for reason in sorted(reasons)]


def undefined_metrics(results: Sequence[Result]) -> list[str]:
    """Return notes on metrics that are undefined in some test parts; their means are over the other parts.

    For example, kappa is undefined if a model predicts a single class that is also the only true one, so it may be
    undefined for some models only.
    """
    counts = {name: max(int(np.isnan(result.values[name]).sum()) for result in results) for name in results[0].values}
    splits = max(len(result.folds) for result in results)
    return [
        f"{name} is undefined in all test parts."
        if count == splits
        else f"{name} is undefined in {count} of {splits} test parts and is the mean of the others."
        for name, count in counts.items()
        if count
    ]
