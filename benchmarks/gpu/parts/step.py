"""One pretraining step against the published step on the same card: time, memory, share of peak."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline_step import BaselineStep
from benchmarks.bench_step import OurStep, StepInputs, autocast, loss_memory, network
from benchmarks.gpu.cards import peak_gib, published_tflops, reset_peak, timed
from slpd_toolkit.config.views import CropsConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu.place import Place
    from slpd_toolkit.models.network import RegionNetwork


def run(place: Place) -> dict[str, Any]:
    crops, device = CropsConfig(), place.device
    batch, repeats, outputs = (2, 1, 256) if place.tiny else (128, 10, 65536)
    inputs = StepInputs.draw(crops, batch, device)
    rows: list[dict[str, Any]] = []
    for precision in ("fp32", "bf16") if place.on_gpu else ("fp32",):
        bf16 = precision == "bf16"
        theirs = _rate(place, _published(crops, inputs, network(0.0, device, outputs=outputs), bf16=bf16), repeats)
        ours = _rate(place, _ours(crops, inputs, network(0.0, device, outputs=outputs), bf16=bf16), repeats)
        with FlopCounterMode(display=False) as counter:
            _ours(crops, inputs, network(0.0, device, outputs=outputs), bf16=bf16)()
        tflop = counter.get_total_flops() / 1e12
        peak = published_tflops(torch.cuda.get_device_name()) if place.on_gpu else None
        rows.append(
            {
                "precision": precision,
                "batch": batch,
                "seconds": ours["seconds"],
                "seconds_published": theirs["seconds"],
                "times_as_fast": round(theirs["seconds"] / ours["seconds"], 2),
                "regions_per_s": round(batch / ours["seconds"], 1),
                "peak_gib": ours["peak_gib"],
                "peak_gib_published": theirs["peak_gib"],
                "tflop": round(tflop, 3),
                "tflops": round(tflop / ours["seconds"], 1),
                "share_of_peak": round(tflop / ours["seconds"] / peak, 3) if peak and bf16 else None,
            }
        )
        difference = abs(ours["first_loss"] / theirs["first_loss"] - 1)
        place.check(f"first loss vs. the published step, {precision}, relative", difference, 2e-2 if bf16 else 1e-4)
    if place.tiny:
        return {"steps": rows}
    torch.cuda.empty_cache()
    memory = loss_memory(batch, device)
    share = round(memory["ours_fp32"] / memory["baseline"], 3)
    return {"steps": rows, "loss_peak_mib": memory, "loss_peak_share": share}


def _ours(crops: CropsConfig, inputs: StepInputs, student: RegionNetwork, *, bf16: bool) -> Callable[[], float]:
    step = OurStep(student, crops, inputs.tokens.device.type, bf16=bf16)
    return partial(step, inputs.tokens, inputs.plan, inputs.targets)


def _published(crops: CropsConfig, inputs: StepInputs, student: RegionNetwork, *, bf16: bool) -> Callable[[], float]:
    baseline = BaselineStep(student, crops)

    def step() -> float:
        with autocast(inputs.tokens.device.type, enabled=bf16):
            return baseline(inputs.channels_first, inputs.plan, inputs.targets)

    return step


def _rate(place: Place, step: Callable[[], float], repeats: int) -> dict[str, float]:
    reset_peak(place.device)
    first = step()
    step()
    seconds = timed(step, place.device, repeats)
    return {"first_loss": first, "seconds": round(seconds, 4), "peak_gib": peak_gib(place.device)}
