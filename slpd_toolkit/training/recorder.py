"""Work between training steps: prototypes at the start of epochs, metrics and checkpoints after steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slpd_toolkit.config.recipe import RECIPE
from slpd_toolkit.core.errors import TrainingError
from slpd_toolkit.training.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from slpd_toolkit.core.console import Progress
    from slpd_toolkit.objectives.student_teacher import Losses
    from slpd_toolkit.training.run import Run


class Recorder:
    """Observer of the training loop that writes to the run folder.

    Args:
        run: The run.
        bar: Progress bar.
    """

    def __init__(self, run: Run, bar: Progress) -> None:
        progress = run.state.progress
        self.meter = Meter(
            run.processes,
            tuple(run.config.objective.weights),
            progress.sums,
            progress.summed,
            run.plan.schedule.samples,
        )
        self._run, self._bar, self._status, self._saved_at = run, bar, "", time.monotonic()

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch; see `Run.prepare_epoch`."""
        if self._run.prepare_epoch(epoch):
            self.meter.restart_clock()

    def end_step(self, step: int, losses: Sequence[Losses], gradient_norm: Tensor) -> bool:
        """Record a step, and write metrics and checkpoints when due.

        Returns:
            Whether any process was asked to stop.

        Raises:
            TrainingError: The loss or the weights are not finite.
        """
        run, config, stop = self._run, self._run.config, self._run.stop
        self.meter.count(step, losses, run.state.slpd.centre, gradient_norm)
        self._bar.advance(1, self._status)
        if (step + 1) % config.running.log_every == 0 or step + 1 == run.plan.steps:
            self._log(step)
        due = time.monotonic() - self._saved_at > config.running.save_every_min * 60
        exit_code, save = run.processes.max(stop.exit_code, int(due))
        if exit_code or save or run.plan.begins_epoch(step + 1):
            self._save(step)
        if exit_code:  # a signal that arrives later stops all processes after the next step
            stop.exit_code = exit_code
        return exit_code != 0

    def _log(self, step: int) -> None:
        """Write a row of metrics.csv."""
        self._refuse_bad_losses()
        run, plan = self._run, self._run.plan
        row = self.meter.row(plan.schedule.global_batch)
        health = run.state.progress.bank.quality() if run.state.progress.bank else None
        shown = ("loss", *(name for name in run.config.objective.weights if row[name]))
        self._status = ", ".join(f"{name} {row[name]:.3f}" for name in shown)
        clusters = {} if health is None else {f"clusters_{name}": value for name, value in health._asdict().items()}
        run.folder.add_metrics(
            {
                "step": step + 1,
                "epoch": plan.schedule.epoch_of(step),
                "lr": plan.lr[step],
                "weight_decay": plan.weight_decay[step],
                "teacher_momentum": plan.teacher_momentum[step],
                **row,
                **clusters,
            }
        )

    def _save(self, step: int) -> None:
        """Save the state if loss and weights are finite; the next loss would reveal bad weights only after saving."""
        self._refuse_bad_losses()
        state = self._run.state
        if not state.is_finite():
            raise self._not_finite("weights are", step)
        self._saved_at = time.monotonic()
        state.progress.sums, state.progress.summed = self.meter.shared_sums(), self.meter.summed
        self._run.folder.save(state)

    def _refuse_bad_losses(self) -> None:
        bad = self.meter.first_bad_step()
        if bad is not None:
            raise self._not_finite("loss is", bad)

    def _not_finite(self, what: str, step: int) -> TrainingError:
        run, last = self._run, self._run.folder.checkpoint
        kept = f"{last} was saved before this step. " if last.exists() else ""
        return TrainingError(
            f"The {what} not finite at step {step + 1} (recipe {run.folder.path / RECIPE}, {run.state.precision}, "
            f"learning rate {run.plan.lr[step]:.3g}).",
            hint=f"{kept}Try --precision fp32 or a lower --lr.",
        )
