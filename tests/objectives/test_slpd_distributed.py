"""Two processes that share a batch take the same step as one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from slpd_toolkit.config.objective import ObjectiveConfig
from slpd_toolkit.objectives.crops import Views
from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets
from tests.objectives.test_slpd import build, draw_prototypes, draw_views

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.objectives.slpd import Slpd

STEPS = 3


def run_steps(model: Slpd | DistributedDataParallel, slpd: Slpd, part: slice) -> list[Tensor]:
    """Return the losses of every step, then all parameters and centers."""
    optimiser = torch.optim.SGD(slpd.student.parameters(), lr=0.1)
    result = []
    for step in range(STEPS):
        both = draw_views(step)
        views = Views(both.global_crops[:, part], both.local_crops[:, part])
        drawn = draw_prototypes(step, 2, valid=(True, False, True, True))  # the first process has fewer targets
        prototypes = PrototypeTargets(drawn.valid[part], drawn.own[part], drawn.neighbours[:, part])
        losses = model(views, prototypes)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        slpd.update_centres([losses])
        slpd.update_teacher(0.9)
        result.append(torch.stack((losses.total.detach(), *losses.terms.values())))
    return [*result, *(tensor.clone() for tensor in slpd.state_dict().values())]


def one_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    slpd = build(ObjectiveConfig())
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    torch.save(run_steps(DistributedDataParallel(slpd, broadcast_buffers=False), slpd, part), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    slpd = build(ObjectiveConfig())
    expected = run_steps(slpd, slpd, slice(0, 4))
    spawn(one_process, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for i, (a, b, whole) in enumerate(zip(first, second, expected, strict=True)):
        if i < STEPS:
            torch.testing.assert_close((a + b) / 2, whole, rtol=1e-10, atol=0)
        else:
            assert torch.equal(a, b)
            torch.testing.assert_close(a, whole, rtol=1e-8, atol=1e-12)
