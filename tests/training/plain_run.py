"""Stage two as plain loops in double precision, from the cache to the weights: slow but simple."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.objectives.crops import draw_crops
from slpd_toolkit.objectives.slide_prototypes import PrototypeBank, build_bank
from slpd_toolkit.store.token_file import TokenFile
from slpd_toolkit.training.sampling import Stream, generator
from tests.objectives.oracle import Oracle

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.config.pretrain import PretrainConfig


@dataclass
class PlainResult:
    oracle: Oracle
    start: RegionNetwork
    losses: list[dict[str, float]]


def train_plainly(config: PretrainConfig) -> PlainResult:
    """Train with SGD with momentum, in one process, without accumulation or stochastic depth."""
    files = [TokenFile.open(path) for path in sorted(config.cache.glob("*.h5"))]
    regions = [
        (i, torch.from_numpy(np.array(tokens)).double()) for i, file in enumerate(files) for tokens in file.tokens
    ]
    grid = len(regions[0][1])
    per_epoch = len(regions) // config.batch_size
    steps = config.epochs * per_epoch
    crops, side = config.crops, config.crops.global_side
    student = RegionNetwork(
        config.region_vit, config.dino_head, generator(config.running.seed, Stream.WEIGHTS), input_dim=8, grid=side
    ).double()
    start = RegionNetwork(config.region_vit, config.dino_head, input_dim=8, grid=side).double()
    start.load_state_dict(student.state_dict())
    oracle = Oracle(config.objective, student)
    velocity = {name: torch.zeros_like(value) for name, value in student.named_parameters()}
    bank: PrototypeBank | None = None
    losses = []
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0 and epoch >= config.prototypes.prototype_epoch:
            bank = cluster(config, oracle, regions, grid)
        order = torch.randperm(len(regions), generator=generator(config.running.seed, Stream.ORDER, epoch))
        batch = order[place * config.batch_size :][: config.batch_size]
        plan = draw_crops(crops, len(batch), (grid, grid), generator(config.running.seed, Stream.VIEWS, step))
        views: list[list[Tensor]] = []
        for v, side in enumerate(crops.sides()):
            views.append([])
            for b, region in enumerate(batch.tolist()):
                top, left = int(plan.top[v, b]), int(plan.left[v, b])
                crop = regions[region][1][top : top + side, left : left + side]
                views[-1].append(crop.flip(1) if plan.flip_columns[v, b] else crop)
        found = oracle.losses(views, None if bank is None else bank.targets(batch))
        scale = config.objective.weights
        total = torch.stack([scale[name] * value for name, value in found.items()]).sum()
        losses.append({name: value.item() for name, value in found.items()} | {"loss": total.item()})
        gradients = torch.autograd.grad(total, list(student.parameters()))
        rate, decay, momentum = schedules(config, step, steps, per_epoch)
        with torch.no_grad():
            for (name, parameter), gradient in zip(student.named_parameters(), gradients, strict=True):
                if epoch < config.optimisation.freeze_last_layer and name == "head.last_layer.weight_v":
                    continue
                clipped = gradient * min(1.0, config.optimisation.clip_grad / (float(gradient.norm()) + 1e-6))
                if parameter.ndim > 1:
                    clipped = clipped + decay * parameter
                velocity[name] = clipped if step == 0 else 0.9 * velocity[name] + clipped
                parameter.sub_(velocity[name], alpha=rate)
            for average, parameter in zip(oracle.teacher.parameters(), student.parameters(), strict=True):
                average.copy_(momentum * average + (1 - momentum) * parameter)
    return PlainResult(oracle, start, losses)


def schedules(config: PretrainConfig, step: int, steps: int, per_epoch: int) -> tuple[float, float, float]:
    batch_size, settings = config.batch_size, config.optimisation
    peak = settings.lr * batch_size / 256
    warmup = settings.warmup_epochs * per_epoch
    if step < warmup:
        rate = peak * step / (warmup - 1)
    else:
        rate = settings.min_lr + (peak - settings.min_lr) * half_cosine(step - warmup, steps - warmup)
    decay = settings.weight_decay_end + (settings.weight_decay - settings.weight_decay_end) * half_cosine(step, steps)
    return rate, decay, 1 + (settings.teacher_momentum - 1) * half_cosine(step, steps)


def half_cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def cluster(config: PretrainConfig, oracle: Oracle, regions: list[tuple[int, Tensor]], grid: int) -> PrototypeBank:
    first = (grid - config.crops.global_side) // 2
    last = first + config.crops.global_side
    with torch.no_grad():
        vectors = []
        for _, tokens in regions:
            features = oracle.teacher.backbone(tokens[first:last, first:last].unsqueeze(0))  # type: ignore[operator]
            vectors.append(F.normalize(oracle.teacher.head.mlp(features), dim=-1)[0])  # type: ignore[operator, union-attr]
    bank = build_bank(
        torch.stack(vectors),
        torch.tensor([slide for slide, _ in regions]),
        config.prototypes,
        seed=config.running.seed,
    )
    return replace(bank, prototypes=bank.prototypes.double())
