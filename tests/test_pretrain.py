"""Stage two end to end on tiny networks: what it computes, what it writes, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from slpd_toolkit import pretrain
from tests.training.plain_run import train_plainly
from tests.training.runs import checkpoint, metrics, tiny

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"view_rule": "published", "neighbours": 2, "inter_weight": 0.3, "freeze_last_layer": 2, "seed": 5},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_equals_plain_loops_in_double_precision(cache: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Nine steps with prototypes from the fourth on; what separates the two is fp32 rounding."""
    config = tiny(
        cache, tmp_path / "out", optimiser="sgd", drop_path=0.0, log_every=1, lr=0.2, teacher_momentum=0.8, **changes
    )
    pretrain.run(config)
    plain = train_plainly(config)
    for row, wanted in zip(metrics(config.out), plain.losses, strict=True):
        for name, value in wanted.items():
            assert float(row[name]) == pytest.approx(value, rel=2e-3), f"{name} of step {row['step']}"
    state = checkpoint(config.out)["slpd"]
    for network, oracle in (("student", plain.oracle.student), ("teacher", plain.oracle.teacher)):
        for name, parameter in oracle.named_parameters():
            moved = (parameter - plain.start.get_parameter(name)).norm()
            assert (state[f"{network}.{name}"] - parameter).norm() < 2e-3 * moved, f"{network}.{name}"
    torch.testing.assert_close(state["centre"].double(), plain.oracle.centre, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state["prototype_centre"].double(), plain.oracle.prototype_centre, rtol=1e-3, atol=1e-4)
