"""Head with a network on bags, trained by gradient descent. Runs in worker processes, so imports are kept minimal."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.mil.bags import Scaler
from slpd_toolkit.mil.heads.head import Head, HeadState, PartRows, TrainedHead, single_thread
from slpd_toolkit.mil.heads.training import HeadTraining, predict, train_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.heads.aggregator import Aggregator
    from slpd_toolkit.mil.tasks.likelihoods import Objective

_NETWORK, _MEAN, _SD = "network.", "scaler.mean", "scaler.sd"
_STEP = "step "


@dataclass(frozen=True)
class BagNetwork(Head):
    """An aggregator trained with early stopping on the validation loss."""

    in_workers: ClassVar = True

    aggregator: type[Aggregator]

    def check(self, objective: Objective) -> None:
        """See `Aggregator.check`."""
        self.aggregator.check(objective)

    def fit(
        self, bags: Bags, objective: Objective, rows: PartRows, training: HeadTraining, seeds: tuple[int, int]
    ) -> TrainedHead:
        """See `Head.fit`; the weights with the lowest validation loss are kept."""
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
        sizes = self.aggregator.sizes(bags.width, objective)
        return TrainedHead(_state(network, sizes, scaler), f"{_STEP}{kept_step}", tuple(checks))

    def refit(
        self,
        bags: Bags,
        objective: Objective,
        rows: IntArray,
        training: HeadTraining,
        seeds: tuple[int, int],
        settings: Sequence[str],
    ) -> TrainedHead:
        """See `Head.refit`; trains for the median number of steps that folds kept."""
        kept = int(np.median([int(setting.removeprefix(_STEP)) for setting in settings]))
        steps = max(kept, training.check_every)
        once = replace(training, steps=steps, check_every=steps)
        found = self.fit(bags, objective, PartRows(rows, rows, rows), once, seeds)
        return replace(found, checks=())

    def apply(
        self,
        state: HeadState,
        bags: Bags,
        rows: IntArray,
        known: Bags | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, tuple[FloatArray, ...]]:
        """See `Head.apply`; slides are predicted one at a time, without padding."""
        with single_thread():
            network = self.rebuild(state)
            scaler = Scaler(state.tensors[_MEAN], state.tensors[_SD])
            logits, attention = predict(network, bags, rows, scaler, batch_size=1)
        return logits, tuple(weights.double().numpy() for weights in attention)

    def rebuild(self, state: HeadState) -> Aggregator:
        """Build the network of a state.

        Raises:
            WeightsError: Its tensors are not those of this aggregator.
        """
        tensors = {
            name.removeprefix(_NETWORK): torch.from_numpy(np.array(values))
            for name, values in state.tensors.items()
            if name.startswith(_NETWORK)
        }
        try:
            with torch.device("meta"):  # sizes are believed only after the tensors have been compared with them
                network = self.aggregator(**{name: int(size) for name, size in state.options.items()})
            network.load_state_dict(tensors, assign=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"The tensors of a stored head are not those of {self.aggregator.__name__} ({error}).",
                hint="Run `slpd mil-eval` again.",
            ) from error
        return network.eval()


def _state(network: Aggregator, sizes: dict[str, int], scaler: Scaler) -> HeadState:
    tensors = {f"{_NETWORK}{name}": tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    return HeadState({**tensors, _MEAN: scaler.mean, _SD: scaler.sd}, sizes)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's global CPU generator, used for initial weights and dropout, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
