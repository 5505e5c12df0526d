"""A training run, ready to train: what the loop, the recorder and the commands need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slpd_toolkit.training.loop import Source
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.run_folder import RunFolder
    from slpd_toolkit.training.signals import StopRequest
    from slpd_toolkit.training.state import TrainingState
    from slpd_toolkit.training.step_plan import Plan


@dataclass(frozen=True)
class Run:
    """A training run. Subclasses know what it trains on."""

    config: Any
    """Settings of the command."""
    processes: Processes
    stop: StopRequest
    """Checked during passes over the cohort, which then raise `Stopped` and leave the state unchanged."""
    plan: Plan
    state: TrainingState
    source: Source
    folder: RunFolder

    @property
    def steps_left(self) -> int:
        """Number of remaining steps."""
        return self.plan.steps - self.state.progress.step

    @property
    def steps(self) -> range:
        """The remaining steps."""
        return range(self.state.progress.step, self.plan.steps)

    def batches(self) -> Iterator[tuple[int, Tensor, Any]]:
        """Yield step, indices of the samples, and what the source makes their views from, for the remaining steps."""
        raise NotImplementedError

    def prepare_epoch(self, epoch: int) -> bool:
        """Do what an epoch needs before its first step; return whether that took time that is not training."""
        del epoch
        return False

    def say(self, message: str) -> None:
        """Print a message, in the first process only."""
        if self.processes.first:
            console.note(message)

    def close(self) -> None:
        """Release files."""
        self.folder.close()
