"""Plan of a run: its steps, and all values that depend only on the step number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.objectives.schedules import cosine
from slpd_toolkit.training.sampling import Schedule

if TYPE_CHECKING:
    from slpd_toolkit.config.training import Planned
    from slpd_toolkit.training.processes import Processes

_LR_REFERENCE_BATCH = 256


@dataclass(frozen=True)
class Plan:
    """Steps of a run and the schedules over them."""

    schedule: Schedule
    """Regions of each step."""
    parts: tuple[slice, ...]
    """Parts into which each step splits a process's batch."""
    lr: list[float]
    """Learning rate of each step."""
    weight_decay: list[float]
    """Weight decay of each step."""
    teacher_momentum: list[float]
    """Momentum of the teacher's moving average at each step."""
    clip_grad: float
    """Maximum norm of each gradient tensor; infinite for no clipping."""
    freeze_last_layer: int
    """Number of initial epochs in which the head's last layer is frozen."""

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return len(self.lr)

    def begins_epoch(self, step: int) -> bool:
        """Return whether a step is the first of its epoch."""
        return step % self.schedule.steps_per_epoch == 0

    def freezes_last_layer(self, step: int) -> bool:
        """Return whether the head's last layer is frozen at a step."""
        return self.schedule.epoch_of(step) < self.freeze_last_layer


def make_plan(config: Planned, count: int, processes: Processes, samples: str = "regions") -> Plan:
    """Plan a run over a cohort of `count` samples (regions or slides).

    Raises:
        UsageError: The cohort has fewer samples than a batch.
    """
    settings = config.optimisation
    schedule = Schedule(count, config.batch_size, processes.rank, processes.world, config.running.seed, samples)
    steps = config.epochs * schedule.steps_per_epoch
    peak = settings.lr * schedule.global_batch / _LR_REFERENCE_BATCH
    warmup = settings.warmup_epochs * schedule.steps_per_epoch
    size = config.batch_size // config.accumulate
    return Plan(
        schedule,
        tuple(slice(first, first + size) for first in range(0, config.batch_size, size)),
        cosine(peak, settings.min_lr, iterations=steps, warmup_iterations=warmup).tolist(),
        cosine(settings.weight_decay, settings.weight_decay_end, iterations=steps).tolist(),
        cosine(settings.teacher_momentum, 1.0, iterations=steps).tolist(),
        settings.clip_grad or float("inf"),
        settings.freeze_last_layer,
    )
