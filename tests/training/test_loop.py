"""The training loop on its own: a tiny state, batches in memory, no cache and no folder."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.config.objective import ObjectiveConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.training.loop import train
from slpd_toolkit.training.processes import Processes
from slpd_toolkit.training.state import make_state
from slpd_toolkit.training.step_plan import make_plan
from slpd_toolkit.training.view_source import ViewSource
from tests.training.runs import TINY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from slpd_toolkit.objectives.student_teacher import Losses

CPU = torch.device("cpu")


class Witness:
    """Records events, and stops training after some steps."""

    def __init__(self, stop_after: int = 99) -> None:
        self.events: list[str] = []
        self.stop_after = stop_after

    def begin_epoch(self, epoch: int) -> None:
        self.events.append(f"epoch {epoch}")

    def end_step(self, step: int, losses: Sequence[Losses], gradient_norm: Tensor) -> bool:
        assert all(part.total.isfinite() for part in losses)
        assert gradient_norm > 0
        self.events.append(f"step {step} of {len(losses)}")
        return step + 1 == self.stop_after


def test_the_loop_trains_a_state_without_a_folder() -> None:
    config = build(
        PretrainConfig, {"cache": "none", "out": "none", **TINY, "epochs": 2, "batch_size": 4, "accumulate": 2}
    )
    student = RegionNetwork(config.region_vit, config.dino_head, input_dim=8, grid=5)
    state = make_state(Slpd(ObjectiveConfig(), student), CPU, "fp32")
    plan = make_plan(config, 8, Processes(0, 1, CPU))
    source = ViewSource(config.crops, config.augmentation, plan.schedule, 6, CPU)
    tokens = torch.randn(8, 6, 6, 8, generator=torch.Generator().manual_seed(0))
    regions = [torch.from_numpy(plan.schedule.batch(step)) for step in range(plan.steps)]
    batches = [(step, chosen, tokens[chosen]) for step, chosen in enumerate(regions)]
    before = deepcopy(state.slpd.state_dict())
    witness = Witness(stop_after=3)
    train(state, plan, source, batches, witness)
    assert witness.events == ["epoch 0", "step 0 of 2", "step 1 of 2", "epoch 1", "step 2 of 2"]
    assert state.progress.step == 3
    for name, value in state.slpd.state_dict().items():
        assert torch.equal(value, before[name]) == (name.endswith("weight_g") or name == "prototype_centre"), name
    train(state, plan, source, batches[3:], witness)
    assert (state.progress.step, witness.events[-1]) == (4, "step 3 of 2")
