"""From splits to predictions of their test parts, a fold a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.workers import in_processes
from slpd_toolkit.mil.heads.aggregators.registry import HEADS
from slpd_toolkit.mil.heads.one_fold import PartRows, single_thread, train_and_predict
from slpd_toolkit.mil.heads.probes import HISTOGRAM, PROBES, run_probe
from slpd_toolkit.mil.heads.prototype_histogram import prototype_histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.heads.training import Check, HeadTraining
    from slpd_toolkit.mil.tasks.task import Task

AGGREGATORS = (*PROBES, *HEADS)


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
        (bags, objective, each, aggregator, training, _seeds(seed, split))
        for split, each, objective in zip(splits, rows, objectives, strict=True)
    ]
    results = in_processes(train_and_predict, calls, jobs, doing="trains heads")
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
