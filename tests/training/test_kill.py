"""Signals to a real process, at any moment: not a clock decides when, but what it does in its run folder."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

from slpd_toolkit import pretrain
from tests.training.processes import exit_code, start
from tests.training.runs import AUGMENTED, assert_same_run, checkpoint, tiny

if TYPE_CHECKING:
    from pathlib import Path


START, SAVE = 24, 12
"""Events of starting, and of writing region_vit.pt and last.pt; a run of `tiny` has some two hundred."""


@pytest.mark.parametrize(
    ("changes", "seed", "kills"),
    [
        ({"drop_path": 0.3, "save_every_min": 0.0, "epochs": 2}, 0, 2),
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0}, 1, 9, marks=pytest.mark.slow),
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0, "precision": "bf16"}, 2, 9, marks=pytest.mark.slow),
        pytest.param({"optimiser": "sgd", "save_every_min": 10.0}, 3, 9, marks=pytest.mark.slow),
        pytest.param({"optimiser": "lars", "save_every_min": 0.0, "accumulate": 2}, 4, 9, marks=pytest.mark.slow),
        pytest.param(AUGMENTED | {"save_every_min": 0.0, "accumulate": 2}, 5, 9, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_again_and_again_equals_one_that_was_not(
    cache: Path, tmp_path: Path, changes: dict[str, Any], seed: int, kills: int
) -> None:
    draw = random.Random(seed)
    config = tiny(cache, tmp_path / "killed", **changes)
    pretrain.run(tiny(cache, tmp_path / "whole", **changes))
    codes: list[int | None] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        event = draw.randint(START + 2, START + 4 * SAVE) if len(codes) < kills else 0
        codes.append(exit_code(start(config, number=signal.SIGKILL, event=event)))
    assert codes[-1] == 0
    assert len(codes) > 2
    assert_same_run(tmp_path / "whole", config.out)
    assert not list(config.out.glob(".*"))
    assert (tmp_path / "whole" / "prototypes.h5").read_bytes() == (config.out / "prototypes.h5").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_answered_with_a_saved_state_and_its_exit_code(
    cache: Path, tmp_path: Path, number: int, code: int
) -> None:
    config = tiny(cache, tmp_path / "out")
    assert exit_code(start(config, number=number, event=START + 3)) == code
    assert checkpoint(config.out)["step"] < 9
    assert (config.out / "region_vit.pt").exists()
    assert not (config.out / "curves.svg").exists()
