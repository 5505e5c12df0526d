"""Head with a network on bags, trained by gradient descent. Runs in worker processes, so imports are kept minimal."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from slpd_toolkit.mil.heads.head import Head, HeadResult, PartRows, single_thread
from slpd_toolkit.mil.heads.training import HeadTraining, predict, train_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.heads.aggregator import Aggregator
    from slpd_toolkit.mil.tasks.likelihoods import Objective


@dataclass(frozen=True)
class BagNetwork(Head):
    """An aggregator trained with early stopping on the validation loss."""

    in_workers: ClassVar = True

    aggregator: type[Aggregator]

    def check(self, objective: Objective) -> None:
        """See `Aggregator.check`."""
        self.aggregator.check(objective)

    def train_and_predict(
        self, bags: Bags, objective: Objective, rows: PartRows, training: HeadTraining, seeds: tuple[int, int]
    ) -> HeadResult:
        """See `Head.train_and_predict`."""
        scaler = bags.scaler(rows.train)
        with single_thread(), _seeded(seeds[0]):
            network = self.aggregator.for_objective(bags.width, objective)
            checks, kept_step = train_head(
                network,
                bags,
                objective,
                train=rows.train,
                val=rows.val,
                scaler=scaler,
                config=training,
                rng=np.random.default_rng(seeds[1]),
            )
            logits, attention = predict(network, bags, rows.test, scaler)
        shares = tuple(weights.double().numpy() for weights in attention)
        return HeadResult(logits, f"step {kept_step}", shares, tuple(checks))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global CPU generator, used for initial weights and dropout, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
