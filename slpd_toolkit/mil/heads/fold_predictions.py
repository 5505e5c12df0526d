"""Predictions for the test parts of splits, with one head per split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.workers import in_processes
from slpd_toolkit.mil.descriptors.descriptor import describe_bags
from slpd_toolkit.mil.heads.head import HeadResult, PartRows, load_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor, Fitted
    from slpd_toolkit.mil.heads.head import Head, HeadState
    from slpd_toolkit.mil.heads.training import Check, HeadTraining
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.readouts import Readout
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """Predictions for the test part of one split."""

    repeat: int
    fold: int
    rows: IntArray
    """(n,) positions of the test slides in the bags and in the task."""
    outputs: FloatArray
    """(n, C) class probabilities, (n, 1) risks, or other predictions of the task's objective."""
    train_size: int
    """Number of training slides."""
    setting: str
    """Setting selected on the validation part."""
    attention: tuple[FloatArray, ...] = ()
    """Attention weights of the regions of each test slide; empty for heads without attention."""
    checks: tuple[Check, ...] = ()
    """Checks of the validation loss; empty for heads that are not trained in steps."""
    kept: KeptHead | None = None
    """The head, and its predictions for the validation part."""


@dataclass(frozen=True, eq=False)
class KeptHead:
    """A trained head, with what calibration, thresholds and later predictions need."""

    state: HeadState
    readout: Readout
    """How its logits become outputs."""
    val_rows: IntArray
    """(v,) positions of the validation slides; empty for a head without a validation part."""
    val_logits: FloatArray
    """(v, outputs)"""
    test_logits: FloatArray
    """(n, outputs) of the test slides."""


def run_folds(
    bags: Bags,
    task: Task,
    splits: Sequence[Split],
    aggregator: str,
    *,
    descriptor: ChosenDescriptor | None = None,
    training: HeadTraining,
    seed: int,
    jobs: int,
) -> Iterator[FoldPrediction]:
    """Train and apply a head for each split, in parallel single-threaded processes.

    The result does not depend on `jobs`. Heads that take less time than starting a process run in this one.

    Args:
        bags: Slides in the order of the task's targets; workers memory-map the embeddings instead of copying them.
        task: Prediction task.
        splits: Train, val and test slides.
        aggregator: Name of a file in `aggregators/`.
        descriptor: Applied to the bags before the head, fitted on the training slides of each split.
        training: Training settings of networks.
        seed: Together with the split's repeat and fold, the seed of weights, dropout and order. It is the same for
            every representation, so that comparisons are paired.
        jobs: Number of processes.

    Yields:
        One prediction per split, in order.

    Raises:
        UsageError: The aggregator is unknown or does not support the task; a split has an empty part or slides without
            a bag; the task cannot be learned from a training part.
        SlpdError: A process was killed.
    """
    head = load_head(aggregator)
    rows = [_rows_of(bags, split) for split in splits]
    objectives = [task.objective(each.train) for each in rows]
    for objective in objectives:
        head.check(objective)
    calls = [
        (aggregator, bags, descriptor, objective, each, training, _seeds(seed, split))
        for split, each, objective in zip(splits, rows, objectives, strict=True)
    ]
    made = (
        in_processes(_train_and_predict, calls, jobs, doing="trains heads")
        if head.in_workers
        else (_train_and_predict(*call) for call in calls)
    )
    for split, each, objective, result in zip(splits, rows, objectives, made, strict=True):
        yield FoldPrediction(
            split.repeat,
            split.fold,
            each.test,
            objective.readout.one_by_one(result.logits),
            len(each.train),
            result.setting,
            result.attention,
            result.checks,
            _kept(result, objective, each),
        )


def _kept(result: HeadResult, objective: Objective, rows: PartRows) -> KeptHead | None:
    if result.state is None or result.val_logits is None:
        return None
    return KeptHead(
        result.state, objective.readout, rows.val, result.val_logits.double().numpy(), result.logits.double().numpy()
    )


def check_heads(task: Task, slides: Sequence[str], splits: Sequence[Split], aggregators: Sequence[str]) -> None:
    """Check that each aggregator can learn the task from each training part, before anything is computed.

    Args:
        task: Prediction task.
        slides: Slide IDs in the order of the task's targets.
        splits: Splits with the training parts.
        aggregators: Names of files in `aggregators/`.

    Raises:
        UsageError: An aggregator cannot.
    """
    row = {slide: index for index, slide in enumerate(slides)}
    heads = [load_head(name) for name in aggregators]
    for split in splits:
        objective = task.objective(np.array([row[slide] for slide in split.train], dtype=np.int64))
        for head in heads:
            head.check(objective)


def _train_and_predict(
    aggregator: str,
    bags: Bags,
    descriptor: ChosenDescriptor | None,
    objective: Objective,
    rows: PartRows,
    training: HeadTraining,
    seeds: tuple[int, int],
) -> HeadResult:
    """Run one head on one split; worker processes import the head and the descriptor by name."""
    head = load_head(aggregator)
    if descriptor is None:
        return head.train_and_predict(bags, objective, rows, training, seeds)
    fitted = descriptor.fit(bags, rows.train, seeds[0])
    described = describe_bags(fitted, bags)
    result = head.train_and_predict(described, objective, rows, training, seeds)
    return replace(result, state=result.state and with_descriptor(head, result.state, fitted, described))


def with_descriptor(head: Head, state: HeadState, fitted: Fitted, described: Bags) -> HeadState:
    """Add to the state of a head the descriptor whose vectors it was trained on.

    Args:
        head: The head.
        state: Its state.
        fitted: The descriptor, fitted on the head's training slides.
        described: The slides that the head was given.
    """
    known = described.mean() if head.compares else None
    return replace(state, descriptor=fitted.parameters, known_means=known)


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
