"""Signals to a real process, at any moment: not a clock decides when, but what it does in its run folder."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from slpd_toolkit import cli, pretrain
from tests.training.runs import assert_same_run, checkpoint, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.config.pretrain import PretrainConfig

FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "tempfile.mkstemp", "os.chmod"})
START, SAVE = 24, 12
"""Events of starting, and of writing region_vit.pt and last.pt; a run of `tiny` has some two hundred."""


def _train(config: PretrainConfig, number: int, event: int) -> None:
    """Train as `slpd pretrain` does; signal `number` comes at the given event in the run folder (0: never)."""
    torch.set_num_threads(1)
    left = iter(range(event - 1, -1, -1))
    folder = str(config.out)

    def count(name: str, arguments: tuple[object, ...]) -> None:
        if name in FILE_EVENTS and str(arguments[0]).startswith(folder) and next(left, None) == 0:
            os.kill(os.getpid(), number)

    sys.addaudithook(count)
    cli._guarded(lambda: pretrain.run(config))


def _exit_code(config: PretrainConfig, number: int, event: int) -> int | None:
    context = multiprocessing.get_context("forkserver")  # torch is imported once, not for every process
    context.set_forkserver_preload([__name__, "tests.training.runs", "faiss", "matplotlib.figure"])
    process = context.Process(target=_run_and_exit, args=(config, number, event))
    process.start()
    process.join()
    return process.exitcode


def _run_and_exit(config: PretrainConfig, number: int, event: int) -> None:
    try:
        _train(config, number, event)
    except Exception as error:  # noqa: BLE001 - typer's Exit carries the code
        sys.exit(getattr(error, "exit_code", 99))


@pytest.mark.parametrize(
    ("changes", "seed", "kills"),
    [
        ({"drop_path": 0.3, "save_every_min": 0.0}, 0, 2),
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0}, 1, 9, marks=pytest.mark.slow),
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0, "precision": "bf16"}, 2, 9, marks=pytest.mark.slow),
        pytest.param({"optimiser": "sgd", "save_every_min": 10.0}, 3, 9, marks=pytest.mark.slow),
        pytest.param({"optimiser": "lars", "save_every_min": 0.0, "accumulate": 2}, 4, 9, marks=pytest.mark.slow),
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
        codes.append(_exit_code(config, signal.SIGKILL, event))
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
    assert _exit_code(config, number, START + 3) == code
    assert checkpoint(config.out)["step"] < 9
    assert (config.out / "region_vit.pt").exists()
    assert not (config.out / "curves.svg").exists()
