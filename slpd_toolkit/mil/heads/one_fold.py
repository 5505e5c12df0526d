"""One head on one split, as a pure function that a worker process runs; imports nothing that a head does not need."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.mil.heads.aggregators.registry import build
from slpd_toolkit.mil.heads.training import Check, HeadTraining, predict, train_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.tasks.likelihoods import Objective


@dataclass(frozen=True, eq=False)
class PartRows:
    """The parts of a split as positions in the bags and the targets."""

    train: IntArray
    val: IntArray
    test: IntArray


@dataclass(frozen=True, eq=False)
class HeadResult:
    """What a trained head says of the test part."""

    logits: Tensor
    """(n, outputs)"""
    attention: tuple[FloatArray, ...]
    """For each test slide the share of each of its regions."""
    kept_step: int
    """The step whose weights the validation part chose."""
    checks: tuple[Check, ...]
    """The looks at the validation loss."""


def train_and_predict(
    bags: Bags, objective: Objective, rows: PartRows, aggregator: str, training: HeadTraining, seeds: tuple[int, int]
) -> HeadResult:
    """Train a head on train, stop it by val, apply it to test. The same arguments give the same result in any process.

    Args:
        bags: All slides.
        objective: From `Task.objective` of the training rows.
        rows: The split.
        aggregator: One of `aggregators.registry.HEADS`.
        training: How heads are trained.
        seeds: Source of the initial weights and dropout, and source of the order of slides.
    """
    scaler = bags.scaler(rows.train)
    with single_thread(), _seeded(seeds[0]):
        head = build(aggregator, bags.width, objective)
        checks, kept_step = train_head(
            head,
            bags,
            objective,
            train=rows.train,
            val=rows.val,
            scaler=scaler,
            config=training,
            rng=np.random.default_rng(seeds[1]),
        )
        logits, attention = predict(head, bags, rows.test, scaler)
    return HeadResult(logits, tuple(weights.double().numpy() for weights in attention), kept_step, tuple(checks))


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one thread: sums depend on the number of threads, and workers must not fight for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, which initial weights and dropout draw from, and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
