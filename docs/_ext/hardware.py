"""The table of docs/hardware.md, computed from what the benchmarks measured, with the arithmetic shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SLIDES, REGIONS_A_SLIDE, PATCHES_A_REGION, FEATURES = 1000, 54, 256, 384
CORES, BATCH, EPOCHS, EPOCHS_WITH_PROTOTYPES = 2, 32, 100, 79
_HOUR_S, _MINUTE_S, _GIB = 3600, 60, 2**30


def table() -> Iterator[str]:
    """Time and disk of `SLIDES` slides on the machine that the benchmarks ran on."""
    embedding, epoch, evaluation = _read("embed-vit_small-cpu"), _read("epoch-cpu"), _read("mil-cpu")
    regions = SLIDES * REGIONS_A_SLIDE
    rate = embedding["rounds"][0]["end_to_end"]
    embed_h = regions * PATCHES_A_REGION / rate / _HOUR_S
    step_s = epoch["cpu_s"]["step"] / CORES
    epoch_min = regions / BATCH * step_s / _MINUTE_S
    measured = epoch["slides"] * epoch["regions_a_slide"]
    boundary_min = epoch["boundary_cpu_s"] * regions / measured / CORES / _MINUTE_S
    run_h = (EPOCHS * epoch_min + EPOCHS_WITH_PROTOTYPES * boundary_min) / 60
    cache_gib = regions * PATCHES_A_REGION * FEATURES * 2 / _GIB
    yield "| what | arithmetic | result |"
    yield "|---|---|---|"
    yield (
        f"| embed, ViT-S/16, bf16 | {regions:,} regions x {PATCHES_A_REGION} patches / {rate:.1f} patches a second | "
        f"{embed_h:.0f} hours |"
    )
    yield f"| the cache | {regions:,} x {PATCHES_A_REGION} x {FEATURES} features x 2 bytes | {cache_gib:.1f} GiB |"
    yield (
        f"| an epoch of training, bf16 | {regions:,} regions / {BATCH} a step x {step_s:.2f} s a step | "
        f"{epoch_min:.0f} minutes |"
    )
    yield (
        f"| prototypes, each epoch | {epoch['boundary_cpu_s']:.0f} CPU s for {measured:,} regions x "
        f"{regions:,} / {measured:,} / {CORES} cores | {boundary_min:.1f} minutes |"
    )
    yield (
        f"| a published run | {EPOCHS} epochs, prototypes in {EPOCHS_WITH_PROTOTYPES} of them | {run_h / 24:.1f} days |"
    )
    yield (
        f"| evaluate, gated ABMIL, {evaluation['folds']} folds | {evaluation['abmil']['cpu_s']:.0f} CPU s for "
        f"{evaluation['slides'] * evaluation['regions_a_slide']:,} embedded regions / {CORES} cores | "
        f"{evaluation['abmil']['cpu_s'] / CORES:.0f} seconds |"
    )


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
