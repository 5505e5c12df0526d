"""`slpd pretrain`: parity of fp32 with the CPU, bf16, the fp16 scaler, resuming, NCCL on one rank, regions/s."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.cards import peak_gib, reset_peak
from benchmarks.gpu.place import relative_difference, rounded
from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.recorder import Recorder
from tests.token_factory import LENGTHS, write_cache
from tests.training.runs import TINY, checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.place import Place

EXACT: dict[str, Any] = {**TINY, "log_every": 1, "lr": 0.0005, "drop_path": 0.0}
"""Stochastic depth draws on the device, so that it is off where a device is compared with the CPU."""


def run(place: Place) -> dict[str, Any]:
    cache = write_cache(place.folder / "cache", LENGTHS)
    expected = _losses(_train(place, cache, "cpu", device="cpu"))
    found = _losses(_train(place, cache, "device"))
    place.check("losses of all steps, fp32 vs. the CPU, relative", relative_difference(expected, found), 1e-3)
    for precision in place.precisions:
        # The fp16 scaler starts at 2^16 and halves its scale at each step that overflows: 9 of 9 steps on an H100, so
        # that fp16 gets 36, and at least half of them must be taken. Only the first loss is that of the same step.
        epochs = {"epochs": 12} if precision == "fp16" else {}
        losses = _losses(_train(place, cache, precision, precision=precision, **epochs))
        difference = relative_difference(expected[:1], losses[:1])
        place.check(f"loss of the first step, {precision} vs. fp32, relative", difference, 3e-2)
        place.require(f"losses of all steps are finite, {precision}", ok=all(map(math.isfinite, losses)))
    if place.on_gpu:
        scale = checkpoint(place.folder / "fp16")["scaler"]["scale"]
        skipped = math.log2(2**16 / scale)
        place.check("steps that the fp16 scaler skipped, of 36", skipped, 18)
        place.notes.append(f"The fp16 scaler skipped {skipped:.0f} steps; its scale at the end is {scale:g}.")
    _check_resuming(place, cache, found)
    _check_one_rank(place, cache, found)
    return {"losses": {"cpu": rounded(expected, 5), "device": rounded(found, 5)}, "rates": _rates(place)}


def _train(place: Place, cache: Path, name: str, **changes: Any) -> Path:
    out = place.folder / name
    settings = {**EXACT, "device": place.device, **changes}
    assert pretrain.run(build(PretrainConfig, {"cache": cache, "out": out, **settings})) == 0
    return out


def _losses(out: Path) -> list[float]:
    return [float(row["loss"]) for row in read_metrics(out / "metrics.csv")]


def _check_resuming(place: Place, cache: Path, whole: list[float]) -> None:
    """Stop a run by SIGTERM in its middle, resume it, and compare it with one that was not stopped."""
    end_step = Recorder.end_step

    def end_step_and_stop(recorder: Recorder, step: int, *given: Any) -> bool:
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return end_step(recorder, step, *given)

    out = place.folder / "stopped"
    config = build(PretrainConfig, {"cache": cache, "out": out, **EXACT, "device": place.device})
    setattr(Recorder, "end_step", end_step_and_stop)  # noqa: B010 - for one run
    try:
        place.require("a run that is sent SIGTERM saves its state", ok=pretrain.run(config) == 128 + signal.SIGTERM)
    finally:
        setattr(Recorder, "end_step", end_step)  # noqa: B010
    assert pretrain.run(config) == 0
    place.check(
        "losses of a resumed run vs. an uninterrupted one, relative", relative_difference(whole, _losses(out)), 1e-4
    )


def _check_one_rank(place: Place, cache: Path, alone: list[float]) -> None:
    """Train in a process group of one rank, with NCCL on a GPU, and compare the losses with those without a group."""
    out = place.folder / "one-rank"
    command = [sys.executable, "-m", "benchmarks.gpu.one_rank", str(cache), str(out), place.device]
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    done = subprocess.run(command, env=os.environ | group, check=False, capture_output=True, text=True)
    backend = done.stdout.strip().rpartition("\n")[2]
    place.require(f"one rank: {backend or done.stderr[-400:]}", ok=backend == ("nccl" if place.on_gpu else "gloo"))
    if done.returncode == 0:
        place.check("losses of one rank vs. no group, relative", relative_difference(alone, _losses(out)), 1e-4)


def _rates(place: Place) -> list[dict[str, Any]]:
    """Measure whole runs of the published settings on 1,024 regions of 16 x 16 tokens with 384 features."""
    slides, regions, epochs = (4, 4, 2) if place.tiny else (32, 32, 5)
    started = time.perf_counter()
    cache = write_cache(place.folder / "large", [regions] * slides, grid=16, dim=384)
    wrote = time.perf_counter() - started
    small = TINY | {"min_regions": 2, "log_every": 1} if place.tiny else {"batch_size": 128, "log_every": 8}
    rows = []
    for precision in place.precisions[:1] or ("fp32",):
        out = place.folder / f"rate-{precision}"
        reset_peak(place.device)
        settings: dict[str, Any] = {
            "warmup_epochs": 1,
            "prototype_epoch": 1,
            "min_regions": 4,
            "clusters": 4,
            "workers": 4,
            **small,
            "epochs": epochs,
            "device": place.device,
            "precision": precision,
        }
        started = time.perf_counter()
        assert pretrain.run(build(PretrainConfig, {"cache": cache, "out": out, **settings})) == 0
        lines = read_metrics(out / "metrics.csv")[-3:]
        rows.append(
            {
                "precision": precision,
                "batch": small["batch_size"],
                "regions_per_s": round(max(float(line["regions_per_s"]) for line in lines), 1),
                "data_wait": max(float(line["data_wait"]) for line in lines),
                "peak_gib": peak_gib(place.device),
                "seconds_of_run": round(time.perf_counter() - started, 1),
                "seconds_to_write_cache": round(wrote, 1),
            }
        )
    return rows
