"""From splits to predictions of their test parts, a fold a process."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.resource_tracker import ensure_running
from threading import Thread
from typing import TYPE_CHECKING

import joblib
import numpy as np
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits

from slpd_toolkit.errors import SlpdError, UsageError
from slpd_toolkit.mil.aggregators.registry import HEADS
from slpd_toolkit.mil.heads import HeadResult, PartRows, single_thread, train_and_predict
from slpd_toolkit.mil.probes import HISTOGRAM, PROBES, run_probe
from slpd_toolkit.mil.prototype_histogram import prototype_histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.likelihoods import Objective
    from slpd_toolkit.mil.splits import Split
    from slpd_toolkit.mil.tasks import Task
    from slpd_toolkit.mil.training import Check, HeadTraining

AGGREGATORS = (*PROBES, *HEADS)
_WATCH_EVERY_S = 1.0


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """What one split's head says of its test part."""

    repeat: int
    fold: int
    rows: IntArray
    """(n,) positions of the test slides in the bags and the task."""
    outputs: FloatArray
    """(n, C) class probabilities, or (n, 1) risks."""
    train_size: int
    """Number of training slides."""
    setting: str
    """What the validation part chose."""
    attention: tuple[FloatArray, ...] = ()
    """For each test slide the share of each of its regions; empty for probes, which have none."""
    checks: tuple[Check, ...] = ()
    """The looks at the validation loss; empty for probes."""


def run_folds(
    bags: Bags, task: Task, splits: Sequence[Split], aggregator: str, *, training: HeadTraining, seed: int, jobs: int
) -> Iterator[FoldPrediction]:
    """Train and apply a head for each split, in parallel processes of one thread each.

    The result does not depend on `jobs`. Probes take less time than a process needs to start, and run in this one.

    Args:
        bags: Slides in the order of the task's targets; workers map the embeddings, they get no copy.
        task: What is predicted.
        splits: Which slides train, select and test.
        aggregator: One of `AGGREGATORS`.
        training: How heads are trained; probes ignore it.
        seed: With the split's repeat and fold, the source of weights, dropout and order. Another representation of the
            same slides gets the same, so that their comparison is paired.
        jobs: Number of processes.

    Yields:
        A prediction a split, in their order, as they are ready.

    Raises:
        UsageError: An unknown aggregator, a split with an empty part or with slides that have no bag, or a training
            part that the task cannot be learnt from.
        SlpdError: A process was killed.
    """
    if aggregator not in AGGREGATORS:
        raise UsageError(f"Unknown aggregator {aggregator!r}.", hint=f"Allowed: {', '.join(AGGREGATORS)}.")
    rows = [_rows_of(bags, split) for split in splits]
    if aggregator in PROBES:
        yield from _run_probes(bags, task, splits, rows, aggregator, seed)
        return
    objectives = [task.objective(each.train) for each in rows]
    calls = [
        joblib.delayed(_train_and_predict)(
            os.getpid(), bags, objective, each, aggregator, training, _seeds(seed, split)
        )
        for split, each, objective in zip(splits, rows, objectives, strict=True)
    ]
    with joblib.parallel_config("loky", inner_max_num_threads=1), _interrupts_held():
        results = _told_if_killed(joblib.Parallel(jobs, return_as="generator")(calls))
    for split, each, objective, result in zip(splits, rows, objectives, results, strict=True):
        outputs = objective.predict(result.logits).double().numpy()
        setting = f"step {result.kept_step}"
        yield FoldPrediction(
            split.repeat,
            split.fold,
            each.test,
            outputs,
            len(each.train),
            setting,
            result.attention,
            result.checks,
        )


def _train_and_predict(
    started_by: int,
    bags: Bags,
    objective: Objective,
    rows: PartRows,
    aggregator: str,
    training: HeadTraining,
    seeds: tuple[int, int],
) -> HeadResult:
    """Run in a worker. One whose command was killed must not go on, and keep its memory, for minutes."""
    if os.getpid() != started_by:
        _end_with(started_by)
    return train_and_predict(bags, objective, rows, aggregator, training, seeds)


@cache
def _end_with(parent: int) -> None:
    """End this process soon after the one that started it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_EVERY_S)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def release_workers() -> None:
    """End the processes that trained heads: idle ones keep their memory for minutes, in case there is more to do."""
    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that never see Ctrl-C: this one does, after the block, and ends them without their tracebacks."""
    ensure_running()  # multiprocessing's bookkeeper, whose start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _told_if_killed(results: Iterator[HeadResult]) -> Iterator[HeadResult]:
    try:
        yield from results
    except TerminatedWorkerError as error:
        raise SlpdError(
            "A process that trains heads was killed, probably because memory ran out.", hint="Use fewer --jobs."
        ) from error


def _run_probes(
    bags: Bags, task: Task, splits: Sequence[Split], rows: Sequence[PartRows], name: str, seed: int
) -> Iterator[FoldPrediction]:
    means = bags.mean()
    for split, each in zip(splits, rows, strict=True):
        objective = task.objective(each.train)
        with single_thread(), threadpool_limits(1):
            embeddings = (
                prototype_histogram(bags, each.train, seed=_seeds(seed, split)[0]) if name == HISTOGRAM else means
            )
            probe = run_probe(name, embeddings, objective, train=each.train, val=each.val, test=each.test)
        outputs = objective.predict(probe.logits).double().numpy()
        yield FoldPrediction(split.repeat, split.fold, each.test, outputs, len(each.train), probe.setting)


def _rows_of(bags: Bags, split: Split) -> PartRows:
    empty = [name for name, part in split.parts.items() if not part]
    if empty:
        raise UsageError(
            f"Repeat {split.repeat}, fold {split.fold}: {', '.join(empty)} is empty.", hint="Use other folds."
        )
    return PartRows(*(bags.index_of(part) for part in split.parts.values()))


def _seeds(seed: int, split: Split) -> tuple[int, int]:
    weights, order = np.random.SeedSequence([seed, split.repeat, split.fold]).generate_state(2)
    return int(weights), int(order)
