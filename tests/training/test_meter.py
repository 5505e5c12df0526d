from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from slpd_toolkit.objectives.student_teacher import Losses
from slpd_toolkit.training import meter as module
from slpd_toolkit.training.meter import Meter
from slpd_toolkit.training.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

TERMS = ("dino", "intra", "inter")
ONE = Processes(0, 1, torch.device("cpu"))


def losses(*values: float) -> Losses:
    total, dino, intra, inter, entropy = map(torch.tensor, values)
    return Losses(total, {"dino": dino, "intra": intra, "inter": inter}, entropy, {"centre": torch.zeros(3)})


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_a_row_holds_means_over_steps_and_parts_and_starts_afresh() -> None:
    meter = Meter(ONE, TERMS, None, 0)
    centre = torch.tensor([3.0, 4.0])
    meter.count(0, [losses(1, 2, 3, 4, 5), losses(3, 4, 5, 6, 7)], centre, torch.tensor(2.0))
    meter.count(1, [losses(5, 5, 5, 5, 5)], 2 * centre, torch.tensor(4.0))
    row = meter.row(8)
    assert [row[name] for name in meter.names] == [3.5, 4.0, 4.5, 5.0, 5.5, 7.5, 3.0]
    meter.count(2, [losses(1, 1, 1, 1, 1)], centre, torch.tensor(1.0))
    assert meter.row(8)["loss"] == 1.0


def test_a_resumed_meter_goes_on_from_its_sums() -> None:
    first = Meter(ONE, TERMS, None, 0)
    first.count(0, [losses(1, 1, 1, 1, 1)], torch.ones(1), torch.tensor(1.0))
    second = Meter(ONE, TERMS, first.shared_sums(), first.summed)
    second.count(1, [losses(4, 4, 4, 4, 4)], torch.ones(1), torch.tensor(1.0))
    assert second.row(8)["loss"] == 2.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_step_whose_loss_is_not_finite_is_remembered(value: float) -> None:
    meter = Meter(ONE, TERMS, None, 0)
    assert meter.first_bad_step() is None
    for step, loss in enumerate([1.0, 2.0, value, 1.0, value]):
        meter.count(step, [losses(1, 1, 1, 1, 1), losses(loss, 1, 1, 1, 1)], torch.ones(1), torch.tensor(1.0))
    assert meter.first_bad_step() == 2


def test_time_waited_and_regions_a_second_leave_the_epoch_boundary_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    meter = Meter(ONE, TERMS, None, 0)

    def batches() -> Iterator[int]:
        for i in range(4):
            clock.now += 1
            yield i

    for i in meter.waiting(batches()):
        if i == 2:
            clock.now += 1000
            meter.restart_clock()
        clock.now += 3
        meter.count(i, [losses(1, 1, 1, 1, 1)], torch.ones(1), torch.tensor(1.0))
        if i == 1:
            row = meter.row(10)
            assert (row["regions_per_s"], row["data_wait"]) == (2.5, 0.25)
    row = meter.row(10)
    assert (row["regions_per_s"], row["data_wait"]) == (2.86, 0.14286)
