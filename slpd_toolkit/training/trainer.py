"""What the training loop needs: built from the settings and the cache, or restored from the run folder."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import tomli_w
import torch
from torch.nn.parallel import DistributedDataParallel

from slpd_toolkit.config.recipe import ABOUT, as_recipe
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import CacheError, TrainingError, UsageError
from slpd_toolkit.core.files import claim_folder, write_csv, write_text
from slpd_toolkit.core.version import __version__
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.objectives.optim import make_optimiser
from slpd_toolkit.objectives.schedules import cosine
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.schema import COHORT_FIELDS
from slpd_toolkit.store.streaming import in_parts
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.checkpoint import Progress, describe_cohort, load_checkpoint, save_checkpoint
from slpd_toolkit.training.epoch_prototypes import make_prototypes
from slpd_toolkit.training.meter import Meter
from slpd_toolkit.training.metrics_file import MetricsLog
from slpd_toolkit.training.prototype_file import describe_prototypes
from slpd_toolkit.training.sampling import Schedule, Stream, generator, read_batches
from slpd_toolkit.training.token_statistics import sample_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.objectives.augment import TokenStatistics
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest

LAST, REGION_VIT, PROTOTYPES = "last.pt", "region_vit.pt", "prototypes.h5"
METRICS, RECIPE, SLIDES, CURVES = "metrics.csv", "recipe.toml", "slides.csv", "curves.svg"
TENSORBOARD = "tensorboard"
_LR_REFERENCE_BATCH = 256


class Trainer:
    """Everything that the loop needs: built from the settings, or restored from the run folder.

    Args:
        config: Settings.
        processes: This process and the others.
        stop: Looked at in passes over the cohort, which end by `Stopped` and leave the state as it was.
    """

    def __init__(self, config: PretrainConfig, processes: Processes, stop: StopRequest) -> None:
        self.config, self.processes, self.device, self._stop = config, processes, processes.device, stop
        self.precision = compute.resolve_precision(config.precision, self.device)
        self.store = TokenStore.open(config.cache)
        self.tokens = CohortTokens(self.store)
        self.say = console.note if processes.first else _say_nothing
        self.grid = (self.store.grid, self.store.grid)
        self._check_cohort()
        self.schedule = Schedule(len(self.tokens), config.batch_size, processes.rank, processes.world, config.seed)
        self.steps = config.epochs * self.schedule.steps_per_epoch
        self.lr, self.weight_decay, self.teacher_momentum = self._schedules()
        size = config.batch_size // config.accumulate
        self.parts = [slice(first, first + size) for first in range(0, config.batch_size, size)]
        self.slpd = self._build_networks().to(self.device).train()
        self.model: nn.Module = self.slpd
        if processes.world > 1:
            gpu = [self.device] if self.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # its new name is unknown to torch 2.6
                self.model = DistributedDataParallel(self.slpd, device_ids=gpu, broadcast_buffers=False)
        self.optimiser = make_optimiser(self.slpd.student)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.recipe = as_recipe(config) | {"precision": self.precision}
        self.started_with = {**self.recipe, "processes": processes.world, "cohort": describe_cohort(self.store)}
        self._claim_folder()
        self.progress = self._restore()
        self.statistics = self._statistics()
        self._present = self.tokens.present(np.arange(len(self.tokens)))
        if self._present is not None:
            self._present = self._present.to(self.device)
        self.meter = Meter(processes, self.progress.sums, self.progress.summed)
        self.metrics = self._open_folder()
        self.status = ""
        self._saved_at = time.monotonic()

    @property
    def steps_left(self) -> int:
        """Steps still to do."""
        return self.steps - self.progress.step

    def batches(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Give the batches of the steps that are left, see `read_batches`."""
        pin = self.device.type == "cuda"
        left = range(self.progress.step, self.steps)
        return read_batches(self.tokens, self.schedule, left, workers=self.config.workers, pin_memory=pin)

    def targets(self, regions: Tensor) -> PrototypeTargets | None:
        """Prototypes that these regions are pulled towards, once there are any."""
        return None if self.progress.bank is None else self.progress.bank.targets(regions)

    def present(self, regions: Tensor) -> Tensor | None:
        """Patches of these regions that have a token, (B, grid, grid) bool on the device; None if none lacks one."""
        return None if self._present is None else self._present[regions]

    def gradient_exchange(self, part: slice) -> AbstractContextManager[object]:
        """Exchange gradients between processes with the last part of a step only."""
        if isinstance(self.model, DistributedDataParallel) and part != self.parts[-1]:
            return self.model.no_sync()
        return nullcontext()

    def begin_epoch(self, epoch: int) -> None:
        """Make the prototypes of an epoch that has any."""
        if self.config.uses_prototypes and epoch >= self.config.prototypes.prototype_epoch:
            self._make_prototypes()
            self.meter.restart_clock()

    def end_step(self, step: int, stop: StopRequest) -> bool:
        """Count a step; write metrics and checkpoints when they are due. Gives whether training was asked to stop."""
        self.progress.step = step + 1
        if self.progress.step % self.config.log_every == 0 or self.progress.step == self.steps:
            self._log()
        due = time.monotonic() - self._saved_at > self.config.save_every_min * 60
        exit_code, save = self.processes.max(stop.exit_code, int(due))
        epoch_ends = self.progress.step % self.schedule.steps_per_epoch == 0
        if exit_code or save or epoch_ends:
            self._save()
        if exit_code:  # else a signal that came since stops all processes after the next step
            stop.exit_code = exit_code
        return exit_code != 0

    def announce(self) -> None:
        """Say what is about to happen."""
        config, store, first = self.config, self.store, self.config.prototypes.prototype_epoch
        self.say(
            f"{len(store.files):,} slides, {len(self.tokens):,} regions of {store.grid} x {store.grid} tokens "
            f"({store.meta.encoder}, {store.embedding_dim}-d); {self.precision} on {compute.describe(self.device)}"
            + (f", {self.processes.world} processes" if self.processes.world > 1 else "")
        )
        if self.progress.step:
            self.say(f"Going on at step {self.progress.step:,} of {self.steps:,}.")
        if config.uses_prototypes:
            self.say(f"Prototypes from epoch {first}: {config.prototypes.clusters} per slide.")
        elif config.objective.uses_prototypes:  # a recipe's value, and epochs that a flag has shortened
            self.say(
                f"No prototypes: --prototype-epoch {first} counts from 0, and --epochs is "
                f"{config.epochs}. SLPD needs an earlier one; as it is, this is self-distillation alone."
            )

    def finish(self, stop: StopRequest) -> int:
        """Cluster with the final teacher, if the run is complete. Gives the exit code."""
        if self.steps_left:
            self.say(f"Stopped at step {self.progress.step:,}; the same command goes on from there.")
            return stop.exit_code
        if self._slides_with_prototypes() > self.config.prototypes.neighbours:
            self._make_prototypes()
        return 0

    def close(self) -> None:
        """Release files."""
        self.tokens.close()
        if self.metrics is not None:
            self.metrics.close()

    def _check_cohort(self) -> None:
        """Refuse, before any work, what the cache cannot give."""
        config, grid = self.config, self.store.grid
        if not len(self.tokens):
            raise CacheError(
                f"Token cache {config.cache}: none of its {len(self.store.files)} slides has a region.",
                hint="Embed slides with tissue, or lower --min-tissue of `slpd embed`.",
            )
        if config.crops.global_side > grid:
            large, small = (max(1, round(grid * side / 16)) for side in (14, 6))
            raise UsageError(
                f"--global-side: {config.crops.global_side} tokens do not fit the cache's regions of {grid} x {grid}.",
                hint=f"HIPT and SLPD take views of 14 and 6 of 16 tokens: here --global-side {large} "
                f"--local-side {small}.",
            )
        if not config.uses_prototypes:
            return
        least, neighbours = config.prototypes.min_regions, config.prototypes.neighbours
        usable = self._slides_with_prototypes()
        if usable <= neighbours:
            raise UsageError(
                f"{usable} of {len(self.store.files)} slides have at least --min-regions ({least}) regions; "
                f"--neighbours {neighbours} needs {neighbours + 1}.",
                hint=f"The median slide has {int(np.median(self.store.lengths))} regions: lower --min-regions, "
                "or train without prototypes (--intra-weight 0 --inter-weight 0).",
            )

    def _slides_with_prototypes(self) -> int:
        return int((self.store.lengths >= self.config.prototypes.least_regions).sum())

    def _schedules(self) -> tuple[list[float], list[float], list[float]]:
        """Learning rate, weight decay and teacher momentum of every step."""
        config, steps = self.config.optimisation, self.steps
        peak = config.lr * self.schedule.global_batch / _LR_REFERENCE_BATCH
        warmup = config.warmup_epochs * self.schedule.steps_per_epoch
        return (
            cosine(peak, config.min_lr, iterations=steps, warmup_iterations=warmup).tolist(),
            cosine(config.weight_decay, config.weight_decay_end, iterations=steps).tolist(),
            cosine(config.teacher_momentum, 1.0, iterations=steps).tolist(),
        )

    def _build_networks(self) -> Slpd:
        config = self.config
        student = RegionNetwork(
            config.region_vit,
            config.dino_head,
            generator(config.seed, Stream.WEIGHTS),
            input_dim=self.store.embedding_dim,
            grid=config.crops.global_side,
        )
        if config.init is not None:
            student.backbone.load_file(config.init)
        return Slpd(config.objective, student)

    def _statistics(self) -> TokenStatistics | None:
        if not self.config.augmentation.needs_statistics:
            return None
        return sample_tokens(self.tokens, generator(self.config.seed, Stream.SPREAD)).to(self.device)

    def _restore(self) -> Progress:
        path = self.config.out / LAST
        if not path.exists():
            self.processes.unless_stopped(self._stop, self._check_tokens)
            return Progress()
        return load_checkpoint(path, self.slpd, self.optimiser, self.scaler, self.started_with, self.device)

    def _check_tokens(self) -> None:
        """Read every region once: a damaged file is found now, not in the night."""
        share = self.processes.share(len(self.tokens))
        regions = np.arange(share.start, share.stop)
        shown = self.processes.first
        with console.progress("check tokens", total=len(regions), unit="regions", shown=shown) as bar:
            for part in in_parts(regions):
                self.tokens.read(part)
                bar.advance(len(part))
                self._stop.leave_if_asked()

    def _claim_folder(self) -> None:
        """Make the run folder and clear away what a killed run left half written: before hours of work, not after."""
        if not self.processes.first:
            return
        claim_folder(self.config.out, (LAST, REGION_VIT, PROTOTYPES, METRICS, RECIPE, SLIDES, CURVES))

    def _open_folder(self) -> MetricsLog | None:
        """Write the recipe and the list of slides; open metrics.csv."""
        if not self.processes.first:
            return None
        out = self.config.out
        about = {
            "toolkit": __version__,
            "torch": torch.__version__,
            "device": compute.describe(self.device),
            "processes": self.processes.world,
            "cohort": self.started_with["cohort"],
        }
        write_text(out / RECIPE, tomli_w.dumps({**self.recipe, ABOUT: about}))
        slides = [{"slide_id": slide.meta.slide_id, "regions": len(slide)} for slide in self.store.files]
        write_csv(out / SLIDES, ["slide_id", "regions"], slides)
        events = out / TENSORBOARD if self.config.tensorboard else None
        return MetricsLog(out / METRICS, self.progress.step, events)

    def _make_prototypes(self) -> None:
        """Cluster and match the cohort anew, and write prototypes.h5."""
        bank, bottleneck = make_prototypes(
            self.config, self.slpd.teacher, self.tokens, self.processes, self.precision, self._stop
        )
        self.progress.bank = bank
        if self.processes.first:
            found = describe_prototypes(self.store, bank, bottleneck, self.progress.step)
            found.write(self.config.out / PROTOTYPES)
        health = bank.quality()
        self.say(
            f"Prototypes of {len(bank.slides):,} slides: clusters of {health.smallest} to {health.largest} regions, "
            f"median {health.median:g}; {health.empty:.1%} empty, {health.degenerate:.1%} degenerate."
        )

    def _log(self) -> None:
        """Write a row of metrics.csv."""
        self._stop_if_not_finite()
        step = self.progress.step
        row = self.meter.row(self.schedule.global_batch)
        health = self.progress.bank.quality() if self.progress.bank else None
        self.status = f"loss {row['loss']:.3f}, dino {row['dino']:.3f}" + (
            f", intra {row['intra']:.3f}, inter {row['inter']:.3f}" if health else ""
        )
        if self.metrics is not None:
            self.metrics.add(
                {
                    "step": step,
                    "epoch": self.schedule.epoch_of(step - 1),
                    "lr": self.lr[step - 1],
                    "weight_decay": self.weight_decay[step - 1],
                    "teacher_momentum": self.teacher_momentum[step - 1],
                    **row,
                    **(
                        {}
                        if health is None
                        else {f"clusters_{name}": value for name, value in health._asdict().items()}
                    ),
                }
            )

    def _stop_if_not_finite(self) -> None:
        bad = self.meter.first_bad_step()
        if bad is not None:
            raise self._not_finite("loss is", bad)

    def _not_finite(self, what: str, step: int) -> TrainingError:
        last = self.config.out / LAST
        kept = f"{last} is from before that. " if last.exists() else ""
        return TrainingError(
            f"The {what} not finite at step {step + 1} (recipe {self.config.out / RECIPE}, {self.precision}, "
            f"learning rate {self.lr[step]:.3g}).",
            hint=f"{kept}Try --precision fp32 or a lower --lr.",
        )

    def _save(self) -> None:
        """Write last.pt and region_vit.pt, unless the loss has gone bad, or the weights: the next loss would tell."""
        self._stop_if_not_finite()
        if not all(norm.isfinite() for norm in torch._foreach_norm(list(self.slpd.parameters()))):  # noqa: SLF001
            raise self._not_finite("weights are", self.progress.step - 1)
        self._saved_at = time.monotonic()
        self.progress.sums, self.progress.summed = self.meter.shared_sums(), self.meter.summed
        if not self.processes.first:
            return
        out, meta = self.config.out, self.store.meta
        provenance = {name: getattr(meta, name) for name in COHORT_FIELDS} | {"step": self.progress.step}
        # last.pt comes last: a run killed between the two does the steps again, and writes both.
        self.slpd.teacher.backbone.save(out / REGION_VIT, provenance)
        save_checkpoint(out / LAST, self.slpd, self.optimiser, self.scaler, self.progress, self.started_with)


def _say_nothing(_message: str) -> None:
    """Leave the talking to the first process."""
