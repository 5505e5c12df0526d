"""Signals to a real process at any moment, triggered by events in its run folder instead of by time."""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from slpd_toolkit.commands import pretrain
from slpd_toolkit.objectives import slide_prototypes as prototypes
from slpd_toolkit.store import streaming
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.training import epoch_prototypes as boundary
from tests.training.processes import exit_code, start
from tests.training.runs import AUGMENTED, assert_same_run, checkpoint, tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


START, SAVE = 24, 12
"""Events of starting, and of writing region_vit.pt and last.pt; a run of `tiny` has some two hundred."""


@pytest.mark.parametrize(
    ("changes", "seed", "kills"),
    [
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0, "epochs": 2}, 0, 2, marks=pytest.mark.slow),
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0}, 1, 9, marks=pytest.mark.slow),
        pytest.param({"drop_path": 0.3, "save_every_min": 0.0, "precision": "bf16"}, 2, 9, marks=pytest.mark.slow),
        pytest.param({"save_every_min": 10.0}, 3, 9, marks=pytest.mark.slow),
        pytest.param({"save_every_min": 0.0, "accumulate": 2}, 4, 9, marks=pytest.mark.slow),
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


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_answered_with_a_saved_state_and_its_exit_code(
    cache: Path, tmp_path: Path, number: int, code: int
) -> None:
    config = tiny(cache, tmp_path / "out")
    assert exit_code(start(config, number=number, event=START + 3)) == code
    assert checkpoint(config.out)["step"] < 9
    assert (config.out / "region_vit.pt").exists()
    assert not (config.out / "curves.svg").exists()


def signal_at(
    patch: pytest.MonkeyPatch, place: object, name: str, number: int, when: Callable[[int], bool]
) -> list[int]:
    """Send a signal when `name` is called for the n-th time and `when(n)` holds; returns the number of calls."""
    work: Any = getattr(place, name)
    calls = [0]

    def work_and_signal(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if when(calls[0]):
            os.kill(os.getpid(), number)
        return work(*arguments, **named)

    patch.setattr(place, name, work_and_signal)
    return calls


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_check_of_tokens_is_left_at_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    monkeypatch.setattr(streaming, "REGIONS_AT_ONCE", 5)
    reads = signal_at(monkeypatch, CohortTokens, "read", number, lambda call: call == 2)
    assert pretrain.run(tiny(cache, tmp_path / "out")) == code
    assert reads == [2]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(("place", "name", "stops"), [(boundary, "centre_crop", 8), (prototypes, "kmeans", 6)])
def test_passes_between_epochs_are_left_at_once_and_done_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, stops: int
) -> None:
    """The signal is sent at the first batch (or slide), then at the second, ..., until the pass is over."""
    monkeypatch.setattr(streaming, "REGIONS_AT_ONCE", 5)
    pretrain.run(tiny(cache, tmp_path / "whole"))
    config = tiny(cache, tmp_path / "stopped")
    codes: list[int] = []
    while 0 not in codes:
        at = len(codes) + 1
        with monkeypatch.context() as patch:
            calls = signal_at(patch, place, name, signal.SIGTERM, at.__eq__)
            codes.append(pretrain.run(config))
        assert codes[-1] == 0 or calls == [at]
        assert checkpoint(config.out)["step"] % 3 == 0
    assert codes == [143] * stops + [0]
    assert_same_run(tmp_path / "whole", config.out)
    assert (tmp_path / "whole" / "prototypes.h5").read_bytes() == (config.out / "prototypes.h5").read_bytes()


@pytest.mark.usefixtures("no_curves")
def test_a_run_in_another_thread_than_the_main_one_trains_to_its_end(cache: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(pretrain.run, tiny(cache, tmp_path / "run", epochs=1)).result() == 0
    assert checkpoint(tmp_path / "run")["step"] == 3
