"""Stage two: train the region ViT on cached tokens with the SLPD objectives. `train` is the loop."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core import compute, console
from slpd_toolkit.objectives.augment import augment
from slpd_toolkit.objectives.crops import cut_crops, draw_crops
from slpd_toolkit.objectives.optim import clip_each, set_step
from slpd_toolkit.report.curves import draw_curves
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.processes import join_processes
from slpd_toolkit.training.sampling import Stream, generator
from slpd_toolkit.training.signals import Stopped, stop_requests
from slpd_toolkit.training.trainer import CURVES, METRICS, REGION_VIT, Trainer

if TYPE_CHECKING:
    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.core.console import Progress
    from slpd_toolkit.objectives.slpd import SlpdLosses
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest


def run(config: PretrainConfig) -> int:
    """Train, or go on training, in `config.out`.

    Returns:
        0 when the run is complete; 128 plus the signal's number when it was asked to stop and has saved its state.

    Raises:
        UsageError: Cache, settings or an earlier run in the folder do not fit together; nothing was started.
        CacheError: The cache is empty, mixed, damaged, or can no longer be read.
        WeightsError: `--init` holds other weights.
        TrainingError: The loss is no longer finite.
        DeviceMemoryError: A step does not fit the device.
    """
    with (
        compute.within_memory("Raise --accumulate (same result, less memory) or lower --batch-size, and resume."),
        join_processes(config.device) as processes,
        stop_requests() as stop,
    ):
        try:
            return _train_and_finish(config, processes, stop)
        except Stopped:
            if processes.first:
                console.note("Stopped between steps; the same command goes on from there.")
            return stop.exit_code


def _train_and_finish(config: PretrainConfig, processes: Processes, stop: StopRequest) -> int:
    with closing(Trainer(config, processes, stop)) as trainer:
        if not trainer.steps_left and (config.out / CURVES).exists():  # what a run writes last
            trainer.say(f"{config.out} is complete: {trainer.steps} steps. Its result is {config.out / REGION_VIT}.")
            return 0
        trainer.announce()
        with console.progress("pretrain", total=trainer.steps_left, unit="steps", shown=processes.first) as bar:
            train(trainer, stop, bar)
        code = trainer.finish(stop)
        if code == 0 and processes.first:
            draw_curves(config.out / CURVES, read_metrics(config.out / METRICS))
            trainer.say(f"Done: {config.out / REGION_VIT}. Look at {config.out / CURVES}.")
        return code


def train(run: Trainer, stop: StopRequest, bar: Progress) -> None:
    """Train until the last step, or until asked to stop; either way the state is saved.

    Raises:
        Stopped: Asked to stop while prototypes are made; the state was saved at the end of the epoch before.
        TrainingError: The loss is no longer finite; the last checkpoint is from before that.
        CacheError: Tokens can no longer be read.
    """
    config, slpd, student = run.config, run.slpd, run.slpd.student
    for step, regions, tokens in run.meter.waiting(run.batches()):
        epoch = run.schedule.epoch_of(step)
        if step % run.schedule.steps_per_epoch == 0:
            run.begin_epoch(epoch)
        set_step(run.optimiser, learning_rate=run.lr[step], weight_decay=run.weight_decay[step])
        plan = draw_crops(
            config.crops, run.schedule.global_batch, run.grid, generator(config.seed, Stream.VIEWS, step)
        ).of_regions(run.schedule.part)
        depth, extra = (
            generator(config.seed, stream, step, run.processes.rank, device=run.device)
            for stream in (Stream.DEPTH, Stream.AUGMENTATION)
        )
        tokens, regions = tokens.to(run.device, non_blocking=True), regions.to(run.device)  # noqa: PLW2901
        whole = run.targets(regions) if len(run.parts) > 1 else None
        losses: list[SlpdLosses] = []
        for part in run.parts:
            with run.gradient_exchange(part):
                with compute.autocast(run.device, run.precision):
                    here = regions[part]
                    views = cut_crops(tokens[part], config.crops, plan.of_regions(part), run.present(here))
                    views = augment(views, config.augmentation, run.statistics, extra)
                    losses.append(run.model(views, run.targets(here), depth, whole))
                torch.autograd.backward(run.scaler.scale(losses[-1].total / len(run.parts)))
        if epoch < config.optimisation.freeze_last_layer:
            student.head.last_layer.zero_grad()
        run.scaler.unscale_(run.optimiser)
        gradient_norm = clip_each(student.parameters(), config.optimisation.clip_grad or float("inf"))
        run.scaler.step(run.optimiser)
        run.scaler.update()
        run.optimiser.zero_grad()
        slpd.update_teacher(run.teacher_momentum[step])
        slpd.update_centres(losses)
        run.meter.count(step, losses, slpd.centre, gradient_norm)
        bar.advance(1, run.status)
        if run.end_step(step, stop):
            return
