"""Slide matching between epochs: the neighbors found on the device are those found on the CPU."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from benchmarks.gpu.cards import timed
from slpd_toolkit.objectives.matching import nearest_slides

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place


def run(place: Place) -> dict[str, Any]:
    slides, k, r = (200, 4, 2) if place.tiny else (1000, 4, 2)
    generator = torch.Generator().manual_seed(0)
    prototypes = F.normalize(torch.randn(slides, k, 256, generator=generator), dim=-1)
    there = prototypes.to(place.device)
    print(f"{slides:,} slides on the CPU", flush=True)
    started = time.perf_counter()
    expected = nearest_slides(prototypes, r)
    on_cpu = time.perf_counter() - started
    print(f"{on_cpu:.1f} s; on {place.device}, to warm up", flush=True)
    found = nearest_slides(there, r)
    print("again, timed", flush=True)
    place.check(
        "slides with other neighbors than on the CPU", int((expected.index != found.index.cpu()).any(1).sum()), 0
    )
    difference = (expected.similarity - found.similarity.cpu()).abs().max()
    place.check("largest difference of a similarity", float(difference), 1e-4)
    return {
        "slides": slides,
        "prototypes_per_slide": k,
        "seconds": round(timed(lambda: nearest_slides(there, r), place.device, 1), 2),
        "seconds_cpu": round(on_cpu, 2),
    }
