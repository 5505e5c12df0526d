"""Training on caches with missing patches, and with augmented views."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from slpd_toolkit.commands import pretrain
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.objectives.augment import augment
from slpd_toolkit.store import streaming
from slpd_toolkit.training import state, view_source
from slpd_toolkit.training.processes import Processes
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.sampling import Stream, generator
from slpd_toolkit.training.setup import build_run
from slpd_toolkit.training.signals import StopRequest
from tests.token_factory import without_digest
from tests.training.processes import exit_code, start_two
from tests.training.runs import (
    AUGMENTED,
    assert_close_runs,
    assert_same_run,
    checkpoint,
    differences,
    run_until,
    sgd,
    tiny,
    weights,
)
from tests.training.test_processes import CALM

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.mark.slow
def test_what_missing_patches_hold_changes_no_bit_of_a_run(
    gappy_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in training nor in prototypes; without the mask it would."""
    monkeypatch.setattr(streaming, "REGIONS_AT_ONCE", 10)
    filled = shutil.copytree(gappy_cache, tmp_path / "filled")
    for path in filled.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            if "present" in file:
                tokens = file["tokens"][...]
                noise = np.random.default_rng(0).normal(0, 100, tokens.shape)
                file["tokens"][...] = np.where(file["present"][...][..., None], tokens, noise)
            without_digest(file)
    unmasked = shutil.copytree(filled, tmp_path / "unmasked")
    for path in unmasked.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            if "present" in file:
                del file["present"]
    for name, folder in (("zeros", gappy_cache), ("noise", filled), ("without", unmasked)):
        pretrain.run(tiny(folder, tmp_path / name, accumulate=2, drop_path=0.2, **AUGMENTED))
    assert_same_run(tmp_path / "zeros", tmp_path / "noise")
    one, two = (PrototypeFile.read(tmp_path / name / "prototypes.h5") for name in ("zeros", "noise"))
    np.testing.assert_array_equal(one.region_cosine, two.region_cosine)
    assert differences(weights(tmp_path / "zeros"), weights(tmp_path / "without"))


def test_a_run_is_resumed_on_the_same_gaps_only(
    cache: Path, gappy_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(monkeypatch, tiny(gappy_cache, tmp_path / "out"), 2)
    with pytest.raises(UsageError, match=r"cohort: 5 slides, 30 regions of planted .* in the run, now"):
        pretrain.run(tiny(cache, tmp_path / "out"))


@pytest.mark.slow
def test_an_augmented_run_stopped_after_every_step_equals_one_that_was_not(
    gappy_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = AUGMENTED | {"accumulate": 2, "drop_path": 0.3}
    assert pretrain.run(tiny(gappy_cache, tmp_path / "whole", **changes)) == 0
    code = 1
    while code:
        code = run_until(monkeypatch, tiny(gappy_cache, tmp_path / "stopped", **changes), 1)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_each_setting_reaches_the_views_and_none_is_on_by_default(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of one step shows this; the learning rate is 0 in the first step."""
    runs: dict[str, dict[str, Any]] = {
        "default": {},
        "off": dict.fromkeys(AUGMENTED, 0.0),
        "smaller": {"global_side": 4},
        "all": AUGMENTED,
        **{name: {name: value} for name, value in AUGMENTED.items()},
    }
    for name, changes in runs.items():
        run_until(monkeypatch, tiny(cache, tmp_path / name, **changes), 2)
    found = {name: weights(tmp_path / name)["student.backbone.norm.weight"] for name in runs}
    assert torch.equal(found.pop("off"), found["default"])
    assert len({tuple(value.tolist()) for value in found.values()}) == len(runs) - 1
    assert weights(tmp_path / "smaller")["student.backbone.pos_embed"].shape == (1, 17, 24)


@pytest.mark.slow
def test_augmentation_is_drawn_anew_at_every_step_and_goes_on_between_its_parts(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, bytes]] = []

    def record(views: Any, settings: Any, cohort: Any, source: torch.Generator) -> Any:
        drawn.append((source.initial_seed(), source.get_state().numpy().tobytes()))
        return augment(views, settings, cohort, source)

    monkeypatch.setattr(view_source, "augment", record)
    run_until(monkeypatch, tiny(cache, tmp_path / "out", accumulate=2, **AUGMENTED), 4)
    assert len(drawn) == len(set(drawn)) == 8
    seeds = [seed for seed, _ in drawn]
    assert seeds[::2] == seeds[1::2] == [generator(0, Stream.AUGMENTATION, step, 0).initial_seed() for step in range(4)]


def test_noise_is_measured_in_the_cohort_s_spread(cache: Path, tmp_path: Path) -> None:
    run = build_run(
        tiny(cache, tmp_path / "out", token_noise=0.5, token_offset=2.0, region_offset=0.7),
        Processes(0, 1, torch.device("cpu")),
        StopRequest(),
    )
    spread = run.tokens.read(np.arange(30)).double().flatten(0, 2).std(0, correction=0)
    assert isinstance(run.source, view_source.ViewSource)
    found = run.source.statistics
    assert found is not None
    torch.testing.assert_close(found.spread.double(), spread, rtol=1e-6, atol=0)
    means = run.tokens.read(np.arange(30)).double().mean((1, 2))
    torch.testing.assert_close(found.region_means.double(), means, rtol=1e-5, atol=1e-6)
    run.close()


@pytest.mark.slow
def test_two_processes_on_a_cache_with_gaps_equal_one_with_twice_the_batch(
    gappy_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including rotated views; noise and hidden tokens are drawn by each process separately."""
    monkeypatch.setattr(state, "make_optimiser", sgd)
    changes: dict[str, Any] = CALM | {"quarter_turns": 1.0, "flip_up_down": 0.5}
    config = tiny(gappy_cache, tmp_path / "two", **changes, batch_size=4)
    assert [exit_code(process) for process in start_two(config, plain_sgd=True)] == [0, 0]
    pretrain.run(tiny(gappy_cache, tmp_path / "one", **changes))
    assert_close_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_draw_their_own_augmentation_and_agree_on_the_weights(gappy_cache: Path, tmp_path: Path) -> None:
    config = tiny(gappy_cache, tmp_path / "two", batch_size=4, **AUGMENTED)
    assert [exit_code(process) for process in start_two(config)] == [0, 0]
    again = tiny(gappy_cache, tmp_path / "again", batch_size=4, **AUGMENTED)
    assert [exit_code(process) for process in start_two(again)] == [0, 0]
    assert differences(checkpoint(config.out), checkpoint(again.out)) == []
    ranks = [generator(0, Stream.AUGMENTATION, 0, rank).initial_seed() for rank in range(2)]
    assert len(set(ranks)) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_dropout": 1.0}, "--token-dropout: got 1.0, allowed: 0 to below 1"),
        ({"block_mask": -0.1}, "--block-mask: got -0.1, allowed: 0 to below 1"),
        ({"token_noise": -1.0}, "--token-noise: got -1.0, allowed: at least 0"),
        ({"token_offset": float("inf")}, "--token-offset: got inf, allowed: at least 0"),
        ({"region_offset": -0.1}, "--region-offset: got -0.1, allowed: at least 0"),
        ({"token_dropout": float("nan")}, "--token-dropout: got nan, allowed: 0 to below 1"),
        ({"quarter_turns": 1.5}, "--quarter-turns: got 1.5, allowed: 0 to 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tiny(tmp_path, tmp_path / "out", **changes)
