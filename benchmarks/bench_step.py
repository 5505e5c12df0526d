"""One training step vs. the published implementation on the same tokens: time, and peak memory of the losses.

python -m benchmarks.bench_step --batch 32 --repeats 5
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.baseline_step import BaselineStep, last_layer
from benchmarks.measure import interleaved, peak_mib, ratio, report, summary
from slpd_toolkit.config.objective import ObjectiveConfig
from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig
from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.core.compute import resolve_precision
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.objectives.crops import CropPlan, cut_crops, draw_crops
from slpd_toolkit.objectives.distillation import cross_view_entropy
from slpd_toolkit.objectives.optim import clip_each, make_optimiser, set_step
from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets
from slpd_toolkit.objectives.slpd import Slpd

if TYPE_CHECKING:
    from collections.abc import Callable


class StepInputs(NamedTuple):
    """Inputs of one step."""

    tokens: Tensor
    """(B, 16, 16, 384)"""
    channels_first: Tensor
    """(B, 384, 16, 16)"""
    plan: CropPlan
    targets: PrototypeTargets

    @classmethod
    def draw(cls, crops: CropsConfig, batch: int, device: str) -> StepInputs:
        rng = torch.Generator().manual_seed(0)
        tokens = torch.randn(batch, 16, 16, 384, generator=rng).to(device)
        plan = draw_crops(crops, batch, (16, 16), rng)
        unit = F.normalize(torch.randn(2, batch, 256, generator=rng), dim=-1).to(device)
        targets = PrototypeTargets(torch.ones(batch, dtype=torch.bool, device=device), unit[0], unit[1:])
        return cls(tokens, tokens.permute(0, 3, 1, 2).contiguous(), plan, targets)


class OurStep:
    def __init__(self, student: RegionNetwork, crops: CropsConfig, device: str, *, bf16: bool) -> None:
        self.crops, self.device, self.bf16 = crops, device, bf16
        self.slpd = Slpd(ObjectiveConfig(view_rule="published"), student).to(device).train()
        self.optimiser = make_optimiser(student)
        set_step(self.optimiser, learning_rate=1e-4, weight_decay=0.04)

    def __call__(self, tokens: Tensor, plan: CropPlan, targets: PrototypeTargets) -> float:
        views = cut_crops(tokens, self.crops, plan)
        with autocast(self.device, enabled=self.bf16):
            losses = self.slpd(views, targets)
        self.optimiser.zero_grad()
        losses.total.backward()
        clip_each(self.slpd.student.parameters(), 3.0)
        self.optimiser.step()
        self.slpd.update_centres([losses])
        self.slpd.update_teacher(0.996)
        return float(losses.total.detach())


def autocast(device: str, *, enabled: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device, torch.bfloat16) if enabled else nullcontext()


def has_bf16(device: str) -> bool:
    """Without it, a CPU emulates bf16, and a step takes minutes."""
    return resolve_precision("auto", torch.device(device)) == "bf16"


def network(drop_path: float, device: str, *, outputs: int = 65536) -> RegionNetwork:
    torch.manual_seed(0)
    return RegionNetwork(RegionViTConfig(drop_path=drop_path), DinoHeadConfig(out_dim=outputs)).to(device).train()


def loss_memory(batch: int, device: str) -> dict[str, float]:
    """Measure peak memory of the losses only, from the bottlenecks to the gradients of bottlenecks and last layer."""
    crops = CropsConfig()
    views, q = len(crops.sides()), crops.global_crops + 2
    vectors = F.normalize(torch.randn(views + q, batch, 256, device=device), dim=-1)
    student = vectors[:views].clone().requires_grad_()
    teacher = vectors[views : views + crops.global_crops]
    targets = PrototypeTargets(torch.ones(batch, dtype=torch.bool, device=device), vectors[-2], vectors[-1:])
    baseline = BaselineStep(network(0.0, device), crops)
    centres = torch.zeros(q, baseline.student.head.config.out_dim, device=device)

    def theirs() -> None:
        logits = last_layer(baseline.student, student.flatten(0, 1))
        with torch.no_grad():
            seen = last_layer(baseline.teacher, teacher.flatten(0, 1))
        torch.autograd.grad(
            baseline.losses(logits, seen, targets), (student, baseline.student.head.last_layer.weight_v)
        )

    def ours(*, bf16: bool) -> None:
        with autocast(device, enabled=bf16):
            result = cross_view_entropy(
                student,
                baseline.student.head.last_layer.weight_v,
                vectors[views:],
                baseline.teacher.head.last_layer.weight_v,
                centres,
            )
        torch.autograd.grad(result.cross_entropy.mean(), (student, baseline.student.head.last_layer.weight_v))

    functions: dict[str, Callable[[], None]] = {"baseline": theirs, "ours_fp32": partial(ours, bf16=False)}
    if has_bf16(device):
        functions["ours_bf16"] = partial(ours, bf16=True)
    for function in functions.values():
        function()
    return {name: round(peak_mib(function), 1) for name, function in functions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    crops, device = CropsConfig(), args.device
    tokens, channels_first, plan, targets = StepInputs.draw(crops, args.batch, device)

    baseline = BaselineStep(network(0.0, device), crops)
    ours = OurStep(network(0.0, device), crops, device, bf16=False)
    first = {"baseline": baseline(channels_first, plan, targets), "ours_fp32": ours(tokens, plan, targets)}
    assert abs(first["ours_fp32"] / first["baseline"] - 1) < 1e-5, first

    baseline = BaselineStep(network(0.1, device), crops)

    def baseline_bf16() -> None:
        with autocast(device, enabled=True):
            baseline(channels_first, plan, targets)

    steps: dict[str, Callable[[], Any]] = {
        "baseline_fp32": partial(baseline, channels_first, plan, targets),
        "ours_fp32": partial(OurStep(network(0.1, device), crops, device, bf16=False), tokens, plan, targets),
    }
    compared = {"fp32_as_fp32": ("baseline_fp32", "ours_fp32")}
    if has_bf16(device):
        steps["baseline_bf16"] = baseline_bf16
        steps["ours_bf16"] = partial(OurStep(network(0.1, device), crops, device, bf16=True), tokens, plan, targets)
        compared["bf16_as_fp32"] = ("baseline_fp32", "ours_bf16")
        compared["bf16_as_bf16"] = ("baseline_bf16", "ours_bf16")
    seconds = interleaved(steps, args.repeats)
    memory = loss_memory(args.batch, device)
    report(
        {
            "loss_at_first_step": first,
            "step": {name: summary(values) for name, values in seconds.items()},
            "times_as_fast": {name: ratio(seconds[one], seconds[other]) for name, (one, other) in compared.items()},
            "loss_peak_mib": memory,
            "loss_peak_share": round(memory["ours_fp32"] / memory["baseline"], 3),
        }
    )


if __name__ == "__main__":
    main()
