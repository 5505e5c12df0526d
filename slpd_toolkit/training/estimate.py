"""Estimate of what `slpd pretrain` needs, from a few steps on random tokens on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.config.views import AugmentationConfig
from slpd_toolkit.core import compute
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.training.loop import train
from slpd_toolkit.training.processes import Processes
from slpd_toolkit.training.state import make_state
from slpd_toolkit.training.step_plan import make_plan
from slpd_toolkit.training.view_source import ViewSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.objectives.student_teacher import Losses

_SMALL, _LARGE = 4, 8
"""Batch sizes that are timed on a CPU, where time is linear in the batch."""
_STEPS = 3
_SLOW_S = 5.0


@dataclass(frozen=True)
class TrainingEstimate:
    """What a run needs."""

    step_s: float
    """Seconds per step of self-distillation."""
    embed_s: float
    """Seconds to embed a region, once per epoch with prototypes."""
    steps: int
    embedded: int
    """Regions that are embedded for prototypes, over all epochs."""
    parameters: int
    """Number of parameters of the network with its head."""
    backbone_parameters: int
    """Number of parameters of the region ViT."""

    @property
    def seconds(self) -> float:
        """Estimated time of the run."""
        return self.steps * self.step_s + self.embedded * self.embed_s


class _Timer:
    """Observer of `train` that records when each step ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing."""

    def end_step(self, step: int, losses: Sequence[Losses], gradient_norm: Tensor) -> bool:  # noqa: ARG002
        """Record the time, after waiting for the device; stop if steps are slow."""
        float(losses[0].total.detach())
        self.ended.append(time.perf_counter())
        return len(self.ended) > 1 and self.ended[-1] - self.ended[0] > _SLOW_S


def estimate_training(config: PretrainConfig, regions: int, grid: int, input_dim: int) -> TrainingEstimate:
    """Time a few steps of a run.

    Args:
        config: Settings of the run.
        regions: Number of regions of its cohort.
        grid: Rows and columns of a region's tokens.
        input_dim: Width of the tokens.

    Raises:
        UsageError: The cohort has fewer regions than a batch, or the device is not available.
    """
    device = compute.resolve_device(config.running.device)
    plan = make_plan(config, regions, Processes(0, 1, device))
    if device.type == "cpu" and config.batch_size > _LARGE:
        small, large = (_time_steps(config, batch, grid, input_dim, device) for batch in (_SMALL, _LARGE))
        a_region = max(0.0, (large - small) / (_LARGE - _SMALL))
        step_s = small + (config.batch_size - _SMALL) * a_region
    else:
        step_s = _time_steps(config, config.batch_size, grid, input_dim, device)
    epochs = max(0, config.epochs - config.prototypes.prototype_epoch) + 1 if config.uses_prototypes else 0
    embed_s = _time_embedding(config, grid, input_dim, device)
    network = _network(config, input_dim)
    whole, backbone = (sum(each.numel() for each in part.parameters()) for part in (network, network.backbone))
    return TrainingEstimate(step_s, embed_s, plan.steps, epochs * regions, whole, backbone)


def _time_steps(config: PretrainConfig, batch: int, grid: int, input_dim: int, device: torch.device) -> float:
    """Return the seconds of one step with a batch size."""
    smaller = replace(config, batch_size=batch, accumulate=1, epochs=config.epochs)
    plan = make_plan(smaller, batch * (_STEPS + 1), Processes(0, 1, device))
    slpd = Slpd(config.objective, _network(config, input_dim)).to(device)
    state = make_state(slpd, device, compute.resolve_precision(config.running.precision, device))
    source = ViewSource(config.crops, AugmentationConfig(), plan.schedule, grid, device)
    tokens = torch.randn(batch, grid, grid, input_dim).half()
    batches = ((step, torch.arange(batch), tokens) for step in range(_STEPS + 1))
    timer = _Timer()
    train(state, plan, source, batches, timer)
    return (timer.ended[-1] - timer.ended[0]) / (len(timer.ended) - 1)


def _time_embedding(config: PretrainConfig, grid: int, input_dim: int, device: torch.device) -> float:
    network = _network(config, input_dim).to(device).eval()
    tokens = torch.randn(_LARGE, *(min(grid, config.crops.global_side),) * 2, input_dim, device=device)
    with torch.inference_mode():
        network([tokens])
        begun = time.perf_counter()
        float(network([tokens]).sum())
    return (time.perf_counter() - begun) / _LARGE


def _network(config: PretrainConfig, input_dim: int) -> RegionNetwork:
    weights = torch.Generator().manual_seed(config.running.seed)
    return RegionNetwork(
        config.region_vit, config.dino_head, weights, input_dim=input_dim, grid=config.crops.global_side
    )
