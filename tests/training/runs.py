"""Small training runs for the tests of stage two: starting, stopping, resuming, comparing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.objectives.optim import parameter_groups
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.recorder import Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TINY: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "warmup_epochs": 1,
    "prototype_epoch": 1,
    "clusters": 2,
    "min_regions": 5,
    "global_side": 5,
    "local_side": 3,
    "local_crops": 2,
    "embed_dim": 24,
    "heads": 3,
    "depth": 2,
    "hidden_dim": 32,
    "bottleneck_dim": 16,
    "out_dim": 64,
    "lr": 0.05,
    "log_every": 2,
    "device": "cpu",
    "precision": "fp32",
}
"""30 regions in steps of 8: 3 epochs of 3 steps, prototypes in the last two."""

AUGMENTED: dict[str, Any] = {
    "flip_up_down": 0.5,
    "quarter_turns": 1.0,
    "token_noise": 0.3,
    "token_offset": 0.5,
    "region_offset": 0.5,
    "token_dropout": 0.2,
    "block_mask": 0.25,
}
"""Every augmentation of views."""

TOLERANCE = 1e-4
"""Relative; fp32 sums in another order, over two epochs of steps that each start from the one before."""

TIMINGS = ("regions_per_s", "slides_per_s", "data_wait")


def tiny(cache: Path, out: Path, **changes: Any) -> PretrainConfig:
    return build(PretrainConfig, {"cache": cache, "out": out, **TINY, **changes})


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    """SGD instead of `make_optimiser`; unlike AdamW, it does not amplify rounding differences."""
    return torch.optim.SGD(parameter_groups(model), lr=0.0, momentum=0.9, weight_decay=0.0)


def run_until(patch: pytest.MonkeyPatch, config: PretrainConfig, steps: int) -> int:
    """Train for at most `steps` more steps, as if stopped by SIGTERM."""

    end_step, left = Recorder.end_step, iter(range(steps - 1, -1, -1))

    def end_step_and_ask(recorder: Recorder, *step: Any) -> bool:
        if next(left) == 0:
            recorder._run.stop.exit_code = 143
        return end_step(recorder, *step)

    with patch.context() as inside:
        inside.setattr(Recorder, "end_step", end_step_and_ask)
        return pretrain.run(config)


def metrics(out: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the columns that depend on time."""
    return [
        {name: value for name, value in row.items() if name not in TIMINGS} for row in read_metrics(out / "metrics.csv")
    ]


def checkpoint(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "last.pt", weights_only=True)
    return state


def weights(out: Path, network: str = "student") -> dict[str, Tensor]:
    """Return the parameters of the student or teacher by name."""
    state: dict[str, Tensor] = checkpoint(out)["slpd"]
    return {name: value for name, value in state.items() if name.startswith(network)}


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """List bitwise differences between two nested states, ignoring settings and paths."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [name]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = (one.keys() | other.keys()) - {"recipe"}
        return [found for key in keys for found in differences(one.get(key), other.get(key), f"{name}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{name}/{i}")
        ]
    return [] if one == other else [f"{name}: {one} and {other}"]


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that metrics, checkpoints and exported weights of two runs are bit-identical."""
    assert metrics(one) == metrics(other)
    assert differences(checkpoint(one), checkpoint(other)) == []
    shared = [torch.load(out / "region_vit.pt", weights_only=True) for out in (one, other)]
    assert differences(*shared) == []


def assert_close_runs(one: Path, other: Path, tolerance: float = TOLERANCE) -> None:
    """Assert that metrics and states of two runs are equal but for the order of sums."""
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        for name in mine:
            if mine[name] or theirs[name]:
                assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=tolerance, abs=1e-6), name
    for name, value in checkpoint(one)["slpd"].items():
        error = (value - checkpoint(other)["slpd"][name]).norm()
        assert error <= tolerance * value.norm() + 1e-6, name
