"""Two processes on a CPU (gloo) train like one with twice the batch size, and stop and fail together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.settings import flatten
from slpd_toolkit.training import state
from slpd_toolkit.training.processes import Processes
from tests.token_factory import without_digest
from tests.training.processes import PATIENCE_S, exit_code, start_two
from tests.training.runs import assert_close_runs, checkpoint, metrics, sgd, tiny

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_curves", "plain_sgd")


@pytest.fixture
def plain_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "make_optimiser", sgd)


CALM: dict[str, Any] = {"drop_path": 0.0, "lr": 0.2, "log_every": 1, "epochs": 2}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"min_regions": 7, "batch_size": 2}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 2, "intra_weight": 0.0, "inter_weight": 0.0}, marks=pytest.mark.slow),
        pytest.param({"cluster_features": "backbone", "neighbours": 2}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 2, "min_regions": 7}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one_with_twice_the_batch(cache: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """16 of 30 regions are in slides with prototypes, so that some batches of a process have no such region."""
    changes = {"batch_size": 4} | CALM | changes
    config = tiny(cache, tmp_path / "two", **changes)
    assert [exit_code(process) for process in start_two(config, plain_sgd=True)] == [0, 0]
    pretrain.run(tiny(cache, tmp_path / "one", **changes | {"batch_size": 2 * config.batch_size}))
    assert_close_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_both_go_on(cache: Path, tmp_path: Path) -> None:
    """With four steps per row and a stop before the fourth, the next row averages the sums of both processes."""
    changes = CALM | {"batch_size": 4, "log_every": 4, "save_every_min": 0.0}
    config = tiny(cache, tmp_path / "two", **changes)
    assert [exit_code(process) for process in start_two(config, plain_sgd=True, number=signal.SIGTERM, event=26)] == [
        143,
        143,
    ]
    assert checkpoint(config.out)["step"] in {1, 2, 3}
    assert [exit_code(process) for process in start_two(config, plain_sgd=True)] == [0, 0]
    pretrain.run(tiny(cache, tmp_path / "one", **changes | {"batch_size": 8}))
    assert_close_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before training", pytest.param("during training", marks=pytest.mark.slow)])
def test_one_process_that_fails_leaves_none_waiting(cache: Path, tmp_path: Path, moment: str) -> None:
    damaged = shutil.copytree(cache, tmp_path / "cache")
    config = tiny(damaged, tmp_path / "out", **CALM | {"batch_size": 4})
    if moment == "during training":
        whole = start_two(tiny(damaged, config.out, **CALM | {"batch_size": 4}), number=signal.SIGTERM, event=26)
        assert [exit_code(process) for process in whole] == [143, 143]
    with h5py.File(damaged / "slide004.h5", "r+") as file:
        file["tokens"][:] = np.nan
        without_digest(file)
    codes = [exit_code(process) for process in start_two(config, plain_sgd=True)]
    # A run that is resumed compares the digests of its token files first: nothing is started.
    assert {"before training": 1, "during training": 2}[moment] in codes
    assert None not in codes
    assert 0 not in codes


@pytest.mark.slow
def test_torchrun_passes_sigterm_on_and_the_state_is_saved(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = tiny(cache, out, **CALM | {"batch_size": 4, "epochs": 4000})
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in flatten(settings).items()
        if value not in {None, ()} and name not in {"cache", "tensorboard"}
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "-m", "slpd_toolkit", "pretrain", str(cache), *flags], env=environment)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (out / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        steps = checkpoint(out)["step"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) != 0
    finally:
        process.terminate()  # a healthy torchrun ends its workers
        process.wait()
    assert checkpoint(out)["step"] >= steps
    rows = metrics(out)
    assert int(rows[-1]["step"]) == checkpoint(out)["step"]


@pytest.mark.parametrize(("count", "world"), [(10, 1), (10, 3), (2, 3), (0, 2), (7, 7)])
def test_shares_are_even_and_cover_everything_once(count: int, world: int) -> None:
    shares = [Processes(rank, world, torch.device("cpu")).share(count) for rank in range(world)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    sizes = [len(range(count)[share]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"min_regions": 6, "neighbours": 2}, {"dino_weight": 0.0, "prototype_epoch": 0}]
)
def test_accumulated_parts_equal_one_large_batch(cache: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """16 of 30 regions are in slides with prototypes, so that parts of two regions contain none, one or two of them."""
    changes = CALM | {"min_regions": 7} | changes
    pretrain.run(tiny(cache, tmp_path / "whole", **changes))
    pretrain.run(tiny(cache, tmp_path / "parts", **changes, accumulate=4))
    assert_close_runs(tmp_path / "whole", tmp_path / "parts", 1e-5)
