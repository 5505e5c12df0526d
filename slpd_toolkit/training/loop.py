"""The training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from slpd_toolkit.objectives.optim import clip_each, set_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from slpd_toolkit.objectives.student_teacher import Losses
    from slpd_toolkit.training.state import TrainingState
    from slpd_toolkit.training.step_plan import Plan


class Observer(Protocol):
    """Callbacks of `train`, for prototypes, metrics and checkpoints."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch; called before its first step."""

    def end_step(self, step: int, losses: Sequence[Losses], gradient_norm: Tensor) -> bool:
        """Record a step; return whether to stop training."""


class Source(Protocol):
    """Generates the views of a batch as a function of seed and step."""

    def draw(self, step: int) -> Any:
        """Make the random draws of a step, with `depth`, the generator of stochastic depth."""

    def views(self, batch: Any, samples: Tensor, part: slice, draws: Any) -> Any:
        """Return the views of a part of a batch, which the objective takes."""


def train(
    state: TrainingState,
    plan: Plan,
    source: Source,
    batches: Iterable[tuple[int, Tensor, Any]],
    observer: Observer,
) -> None:
    """Train on every batch, or until the observer stops training.

    Args:
        state: Networks, optimizer and progress; modified in place.
        plan: Schedules over the steps of the run.
        source: Generates the views of a batch.
        batches: Step, (B,) indices of the samples (regions or slides), and what the source makes their views from, such
            as (B, grid, grid, D) tokens.
        observer: Called before each epoch and after each step.
    """
    slpd, student = state.slpd, state.slpd.student
    for step, regions, tokens in batches:
        if plan.begins_epoch(step):
            observer.begin_epoch(plan.schedule.epoch_of(step))
        set_step(state.optimiser, learning_rate=plan.lr[step], weight_decay=plan.weight_decay[step])
        draws = source.draw(step)
        tokens, regions = tokens.to(state.device, non_blocking=True), regions.to(state.device)  # noqa: PLW2901
        whole = state.targets(regions) if len(plan.parts) > 1 else None
        losses: list[Losses] = []
        for part in plan.parts:
            with state.gradient_exchange(last=part == plan.parts[-1]):
                with state.autocast():
                    views = source.views(tokens, regions, part, draws)
                    losses.append(state.model(views, state.targets(regions[part]), draws.depth, whole))
                torch.autograd.backward(state.scaler.scale(losses[-1].total / len(plan.parts)))
        if plan.freezes_last_layer(step):
            student.head.last_layer.zero_grad()
        state.scaler.unscale_(state.optimiser)
        gradient_norm = clip_each(student.parameters(), plan.clip_grad)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.optimiser.zero_grad()
        slpd.update_teacher(plan.teacher_momentum[step])
        slpd.update_centres(losses)
        state.progress.step = step + 1
        if observer.end_step(step, losses, gradient_norm):
            return
