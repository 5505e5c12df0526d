"""Building a run of `slpd pretrain-slides` from the regions of a cohort, or restoring it from its folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core import compute
from slpd_toolkit.core.text import count
from slpd_toolkit.models.slide_vit import SLIDE_VIT, SlideNetwork
from slpd_toolkit.objectives.slide_distillation import SlideDistillation
from slpd_toolkit.training.checkpoint import load_checkpoint
from slpd_toolkit.training.metrics_file import columns
from slpd_toolkit.training.run import Run
from slpd_toolkit.training.run_folder import RunCohort, RunFolder
from slpd_toolkit.training.sampling import Stream, generator
from slpd_toolkit.training.slide_views import SlideBags, SlideViewSource
from slpd_toolkit.training.state import make_state
from slpd_toolkit.training.step_plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from slpd_toolkit.config.pretrain_slides import PretrainSlidesConfig
    from slpd_toolkit.objectives.slide_distillation import SlideViews
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest

SCORES = "scores.h5"
"""Attention of the slide ViT, in the run folder."""


@dataclass(frozen=True)
class SlideRun(Run):
    """A run of `slpd pretrain-slides`."""

    bags: SlideBags
    """Regions of all slides, centered if the slide ViT expects them so."""
    views: SlideViewSource

    def batches(self) -> Iterator[tuple[int, Tensor, SlideViews]]:
        """Yield the views of the remaining steps; see `SlideViewSource.batches`."""
        return self.views.batches(self.steps, workers=self.config.running.workers)


def build_slide_run(
    config: PretrainSlidesConfig,
    bags: SlideBags,
    provenance: Mapping[str, Any],
    processes: Processes,
    stop: StopRequest,
) -> SlideRun:
    """Build a run, or restore the one in `config.out`.

    Args:
        config: Settings.
        bags: Regions of the cohort.
        provenance: Stored with the weights: the model of regions and the kind of tokens.
        processes: Processes of the run.
        stop: Checked between steps.

    Raises:
        UsageError: There are fewer slides than a batch, or an earlier run in the folder has other settings.
        WeightsError: last.pt cannot be read.
    """
    device = processes.device
    precision = compute.resolve_precision(config.running.precision, device)
    sizes = dict(zip(bags.slides, np.diff(bags.offsets).tolist(), strict=True))
    cohort = RunCohort(_describe(bags), sizes, provenance)
    plan = make_plan(config, len(bags.slides), processes, "slides")
    if config.slide_vit.centering == "slide":
        bags = bags.centered()
    weights = generator(config.running.seed, Stream.WEIGHTS)
    student = SlideNetwork(config.slide_vit, config.dino_head, weights, input_dim=bags.values.shape[1])
    student.backbone.fit_scale(bags.values)
    state = make_state(
        SlideDistillation(config.objective, student).to(device), device, precision, grouped=processes.joined
    )
    folder = RunFolder(config.out, config, precision, cohort, processes, SLIDE_VIT, (SCORES,))
    folder.claim()
    if folder.checkpoint.exists():
        state.progress = load_checkpoint(folder, state)
    source = SlideViewSource(bags, config.views, plan.schedule, device)
    names = columns(tuple(config.objective.weights), "slides")
    folder.open(state.progress.step, names, tensorboard=config.running.tensorboard)
    return SlideRun(config, processes, stop, plan, state, source, folder, bags, source)


def announce_slides(run: SlideRun) -> None:
    """Print a summary of the run before it starts."""
    step = run.state.progress.step
    run.say(
        f"{count(len(run.bags.slides), 'slide')}, {count(len(run.bags.values), 'region')} with "
        f"{run.bags.values.shape[1]} features; {run.state.precision} on {compute.describe(run.state.device)}"
        + (f", {run.processes.world} processes" if run.processes.world > 1 else "")
    )
    if step:
        run.say(f"Resuming at step {step:,} of {run.plan.steps:,}.")


def _describe(bags: SlideBags) -> str:
    """Describe the cohort, with a digest: a run's order refers to slides by index.

    Vectors are summarized, because their last digits may differ between devices.
    """
    digest = hashlib.sha256("".join(bags.slides).encode() + bags.places.tobytes() + bags.offsets.tobytes())
    digest.update(f"{bags.values.shape} {bags.values.std():.3g}".encode())
    return f"{len(bags.slides)} slides, {len(bags.values)} regions ({digest.hexdigest()[:8]})"
