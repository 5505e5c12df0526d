"""Cost of prototypes between epochs (embed all regions, cluster, match) relative to the epoch.

    python -m benchmarks.bench_epoch --slides 1000 --regions 60

Embedding and steps are timed on a sample of batches and extrapolated; clustering and matching run in full.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.bench_step import OurStep, autocast, network
from benchmarks.measure import interleaved, report
from slpd_toolkit.config.objective import SlidePrototypesConfig
from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.objectives.crops import centre_crop, draw_crops
from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets, build_bank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng, crops = torch.Generator().manual_seed(0), CropsConfig()
    tokens = torch.randn(args.batch, 16, 16, 384, generator=rng)
    step = OurStep(network(0.1, "cpu"), crops, "cpu", bf16=True)
    teacher = step.slpd.teacher

    @torch.no_grad()
    def embed() -> Tensor:
        with autocast("cpu", enabled=True):
            bottleneck: Tensor = teacher([centre_crop(tokens, crops.global_side)])
            return bottleneck

    unit = F.normalize(torch.randn(2, args.batch, 256, generator=rng), dim=-1)
    targets = PrototypeTargets(torch.ones(args.batch, dtype=torch.bool), unit[0], unit[1:])
    total = args.slides * args.regions
    slides = torch.arange(args.slides).repeat_interleave(args.regions)
    kinds = F.normalize(torch.randn(40, 256, generator=rng), dim=-1)
    vectors = kinds[torch.randint(40, (total,), generator=rng)] + 0.05 * torch.randn(total, 256, generator=rng)
    bank = partial(build_bank, F.normalize(vectors, dim=-1), slides, SlidePrototypesConfig())
    plan = draw_crops(crops, args.batch, (16, 16), rng)
    seconds = interleaved({"step": partial(step, tokens, plan, targets), "embed": embed, "bank": bank}, args.repeats)
    cpu = {name: min(value.cpu for value in values) for name, values in seconds.items()}
    batches = total / args.batch
    epoch, boundary = cpu["step"] * batches, cpu["embed"] * batches + cpu["bank"]
    report(
        {
            "slides": args.slides,
            "regions_a_slide": args.regions,
            "cpu_s": {name: round(value, 3) for name, value in cpu.items()},
            "epoch_cpu_s": round(epoch),
            "boundary_cpu_s": round(boundary, 1),
            "boundary_share": round(boundary / epoch, 3),
        }
    )


if __name__ == "__main__":
    main()
