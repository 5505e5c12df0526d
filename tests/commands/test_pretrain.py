"""Stage two end to end on tiny networks: results, files, and rejected inputs."""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from slpd_toolkit.commands import pretrain
from slpd_toolkit.core.errors import TrainingError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.objectives.crops import cut_crops
from slpd_toolkit.objectives.optim import clip_each
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training import epoch_prototypes as boundary
from slpd_toolkit.training import loop, setup, state, view_source
from slpd_toolkit.training.metrics_file import columns, read_metrics
from slpd_toolkit.training.processes import Processes
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.sampling import Stream, generator
from slpd_toolkit.training.setup import announce, build_run
from slpd_toolkit.training.signals import StopRequest
from tests.training.plain_run import schedules, train_plainly
from tests.training.runs import checkpoint, metrics, run_until, sgd, tiny

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_init": "fan-in"},
        pytest.param(
            {"view_rule": "published", "neighbours": 2, "inter_weight": 0.3, "freeze_last_layer": 2, "seed": 5},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_equals_plain_loops_in_double_precision(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Nine steps, with prototypes from the fourth on; the two differ only by fp32 rounding.

    With HIPT's initial weights, such a small network has nearly the same target for all regions, so that wrong
    prototypes would not be noticed. With fan-in weights they are.
    """
    monkeypatch.setattr(state, "make_optimiser", sgd)
    config = tiny(cache, tmp_path / "out", drop_path=0.0, log_every=1, lr=0.2, teacher_momentum=0.8, **changes)
    pretrain.run(config)
    plain = train_plainly(config)
    for row, wanted in zip(metrics(config.out), plain.losses, strict=True):
        for name, value in wanted.items():
            assert float(row[name]) == pytest.approx(value, rel=2e-3), f"{name} of step {row['step']}"
    saved = checkpoint(config.out)["slpd"]
    for network, oracle in (("student", plain.oracle.student), ("teacher", plain.oracle.teacher)):
        for name, parameter in oracle.named_parameters():
            moved = (parameter - plain.start.get_parameter(name)).norm()
            assert (saved[f"{network}.{name}"] - parameter).norm() < 2e-3 * moved, f"{network}.{name}"
    torch.testing.assert_close(saved["centre"].double(), plain.oracle.centre, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(saved["prototype_centre"].double(), plain.oracle.prototype_centre, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_last_layer_stays_as_it_is_to_the_bit_while_it_is_frozen(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(cache, tmp_path / "out", freeze_last_layer=2, lr=1.0)
    start = build_run(config, Processes(0, 1, torch.device("cpu")), StopRequest())
    initial = {name: value.clone() for name, value in start.state.slpd.state_dict().items()}
    start.close()
    run_until(monkeypatch, config, 6)
    frozen = checkpoint(config.out)["slpd"]
    for network in ("student", "teacher"):
        assert torch.equal(
            frozen[f"{network}.head.last_layer.weight_v"], initial[f"{network}.head.last_layer.weight_v"]
        )
        assert not torch.equal(frozen[f"{network}.head.mlp.4.weight"], initial[f"{network}.head.mlp.4.weight"])
    run_until(monkeypatch, config, 1)
    moved = checkpoint(config.out)["slpd"]
    assert not torch.equal(moved["student.head.last_layer.weight_v"], frozen["student.head.last_layer.weight_v"])


@pytest.mark.slow
def test_metrics_hold_the_schedules_of_the_steps_they_name(cache: Path, tmp_path: Path) -> None:
    config = tiny(cache, tmp_path / "out", log_every=1)
    pretrain.run(config)
    rows = metrics(config.out)
    assert tuple(read_metrics(config.out / "metrics.csv")[0]) == columns()
    assert [(row["step"], row["epoch"]) for row in rows] == [(str(step + 1), str(step // 3)) for step in range(9)]
    for step, row in enumerate(rows):
        found = [float(row[name]) for name in ("lr", "weight_decay", "teacher_momentum")]
        assert found == pytest.approx(schedules(config, step, 9, 3), rel=1e-12)
        total = sum(float(row[name]) for name in ("dino", "intra", "inter"))
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
        has_prototypes = step >= 3
        assert (float(row["intra"]) > 0) == (float(row["inter"]) > 0) == has_prototypes
        assert (row["clusters_smallest"] != "") == has_prototypes
        assert 0 <= float(row["target_entropy"]) <= math.log(64)
    timed = read_metrics(config.out / "metrics.csv")
    assert all(float(row["regions_per_s"]) > 0 and 0 <= float(row["data_wait"]) < 1 for row in timed)


@pytest.mark.slow
def test_prototypes_are_made_anew_at_each_epoch_from_the_first_that_has_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the current teacher, at the start of epochs 1 and 2 and at the end."""
    made = []
    make = boundary.make_prototypes

    def record(config: Any, network: Any, *rest: Any) -> Any:
        bank, bottleneck = make(config, network, *rest)
        made.append((network.training, bank.prototypes, bottleneck))
        return bank, bottleneck

    monkeypatch.setattr(setup, "make_prototypes", record)
    config = tiny(cache, tmp_path / "out")
    for steps, banks in ((3, 0), (1, 1), (2, 1), (1, 2), (9, 3)):
        run_until(monkeypatch, config, steps)
        assert len(made) == banks
    assert not any(training for training, _, _ in made)
    assert not torch.equal(made[0][1], made[1][1])
    assert not torch.equal(made[1][1], made[2][1])
    file = PrototypeFile.read(config.out / "prototypes.h5")
    assert file.step == 9
    np.testing.assert_array_equal(file.prototypes, made[2][1].numpy())
    model = RegionViT.from_file(config.out / "region_vit.pt")
    tokens = CohortTokens(TokenStore.open(cache))
    features = model(tokens.read(np.arange(30))[:, :5, :5].float())
    tokens.close()
    head = {name.removeprefix("teacher.head."): value for name, value in checkpoint(config.out)["slpd"].items()}
    hidden = torch.nn.functional.gelu(features @ head["mlp.0.weight"].T + head["mlp.0.bias"])
    hidden = torch.nn.functional.gelu(hidden @ head["mlp.2.weight"].T + head["mlp.2.bias"])
    wanted = torch.nn.functional.normalize(hidden @ head["mlp.4.weight"].T + head["mlp.4.bias"], dim=-1)
    torch.testing.assert_close(made[2][2], wanted.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Prototypes from epoch 1: 2 per slide."),
        (
            {"prototype_epoch": 3},
            "No prototypes: --prototype-epoch 3 (counted from 0) is not reached with --epochs 3. ",
        ),
        ({"prototype_epoch": 3, "intra_weight": 0.0, "inter_weight": 0.0}, ""),
    ],
)
def test_prototypes_that_would_never_begin_are_told(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    with closing(
        build_run(tiny(cache, tmp_path / "out", **changes), Processes(0, 1, torch.device("cpu")), StopRequest())
    ) as run:
        announce(run)
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert ("prototypes" in told.lower()) == bool(said)


@pytest.mark.slow
def test_views_differ_between_steps_and_are_those_of_a_run_that_was_never_stopped(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {"whole": [], "stopped": []}
    for name, pieces in (("whole", (9,)), ("stopped", (2, 3, 9))):

        def record(tokens: Any, crops: Any, plan: Any, *rest: Any, into: list[Any] = seen[name]) -> Any:
            into.append(tuple(field.flatten().tolist() for field in plan))
            return cut_crops(tokens, crops, plan, *rest)

        monkeypatch.setattr(view_source, "cut_crops", record)
        for steps in pieces:
            run_until(monkeypatch, tiny(cache, tmp_path / name), steps)
    assert seen["whole"] == seen["stopped"]
    assert len({str(plan) for plan in seen["whole"]}) == 9


@pytest.mark.slow
def test_stochastic_depth_is_drawn_anew_at_every_step_and_goes_on_between_its_parts(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, forward = [], Slpd.forward

    def record(slpd: Slpd, views: Any, targets: Any, depth: torch.Generator, whole: Any) -> Any:
        drawn.append((depth.initial_seed(), depth.get_state().numpy().tobytes()))
        return forward(slpd, views, targets, depth, whole)

    monkeypatch.setattr(Slpd, "forward", record)
    pretrain.run(tiny(cache, tmp_path / "out", accumulate=2, drop_path=0.5))
    assert len(drawn) == len(set(drawn)) == 18
    seeds = [seed for seed, _ in drawn]
    assert seeds[::2] == seeds[1::2]
    assert len(set(seeds)) == 9
    assert seeds[::2] == [generator(0, Stream.DEPTH, step, 0).initial_seed() for step in range(9)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"lr": 1e30, "log_every": 1, "save_every_min": 0.0}, "weights are not finite at step 2"),
        ({"lr": 1e30, "log_every": 1}, "loss is not finite at step [3-5]"),
        (
            {"lr": 1e30, "log_every": 100, "precision": "bf16"},
            "(loss is|weights are) not finite at step [23]",
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], bad: str
) -> None:
    """The learning rate of the first step is 0, so its state is good; the second step makes the weights huge."""
    config = tiny(cache, tmp_path / "out", **changes)
    run_until(monkeypatch, config, 1)
    with pytest.raises(TrainingError, match=rf"{bad} .*recipe\.toml, {config.running.precision}, learning rate"):
        pretrain.run(config)
    saved = checkpoint(config.out)
    assert all(value.isfinite().all() for value in saved["slpd"].values())
    shared = RegionViT.from_file(config.out / "region_vit.pt").state_dict()
    assert all(torch.equal(value, saved["slpd"][f"teacher.backbone.{name}"]) for name, value in shared.items())
    with pytest.raises(TrainingError, match="not finite") as again:
        pretrain.run(config)
    assert "last.pt was saved before this step" in again.value.hint


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_saved(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient may overflow although the loss is finite; the state is saved before the next loss shows it."""
    config = tiny(cache, tmp_path / "out", save_every_min=0.0, log_every=100)
    run_until(monkeypatch, config, 2)
    saved = {name: (config.out / name).read_bytes() for name in ("last.pt", "region_vit.pt")}

    def overflow(parameters: Iterable[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        parameters = list(parameters)
        norm = clip_each(parameters, max_norm)
        parameters[0].grad = torch.full_like(parameters[0], float("inf"))
        return norm

    monkeypatch.setattr(loop, "clip_each", overflow)
    with pytest.raises(TrainingError, match=r"weights are not finite at step 3 \(recipe .*recipe\.toml"):
        pretrain.run(config)
    assert {name: (config.out / name).read_bytes() for name in saved} == saved
    monkeypatch.undo()
    assert run_until(monkeypatch, config, 1) == 143
