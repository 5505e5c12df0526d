"""A run that is stopped and resumed is bit-identical to an uninterrupted run."""

from __future__ import annotations

import resource
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import pytest
import torch

from slpd_toolkit.commands import pretrain
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.weights import read_checkpoint
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training import run_folder
from slpd_toolkit.training.checkpoint import describe_cohort
from tests.mutation import mutants
from tests.token_factory import LENGTHS, without_digest, write_cache
from tests.training.runs import assert_same_run, checkpoint, differences, metrics, run_until, tiny, weights

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `tiny` that never stopped. Not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "draw_curves", lambda path, _rows: path.write_text("<svg/>"))
        assert pretrain.run(tiny(cache, out)) == 0
    return out


@pytest.fixture(scope="module")
def begun(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `tiny` that was stopped after two steps. Not to be changed; `out` is a copy."""
    out = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run_until(patch, tiny(cache, out), 2) == 143
    return out


@pytest.fixture
def out(begun: Path, tmp_path: Path) -> Path:
    """A copy of the run that was stopped after two steps."""
    return shutil.copytree(begun, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"drop_path": 0.3},
        pytest.param(
            {
                "drop_path": 0.3,
                "precision": "bf16",
                "accumulate": 2,
                "local_crops": 0,
                "log_every": 4,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "cluster_features": "backbone",
                "correspondence": "nearest",
                "neighbours": 2,
                "seed": 3,
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_stopped_after_every_single_step_equals_one_that_was_not(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    assert pretrain.run(tiny(cache, tmp_path / "whole", **changes)) == 0
    codes: list[int] = []
    while not codes or codes[-1]:
        codes.append(run_until(monkeypatch, tiny(cache, tmp_path / "stopped", **changes), 1))
        assert checkpoint(tmp_path / "stopped")["step"] == min(len(codes), 9)
    assert codes == [143] * 9 + [0]  # the last stop comes before the final prototypes
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_every_setting_that_may_change_may_change(
    cache: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are bit-identical; with another `log_every`, rows of metrics are different means of the same run."""
    out = tmp_path / "stopped"
    run_until(monkeypatch, tiny(cache, out, log_every=3), 4)
    moved = shutil.copytree(cache, tmp_path / "moved")
    out = out.rename(tmp_path / "elsewhere")
    pretrain.run(tiny(moved, out, log_every=5, workers=1, save_every_min=0.0, device="auto"))
    assert differences(weights(whole), weights(out)) == []
    assert [int(row["step"]) for row in metrics(out)] == [3, 5, 9]


@pytest.mark.slow
def test_means_of_a_row_count_each_step_once_when_log_every_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain.run(tiny(cache, tmp_path / "whole", log_every=1))
    run_until(monkeypatch, tiny(cache, tmp_path / "out", log_every=4), 5)
    pretrain.run(tiny(cache, tmp_path / "out", log_every=7))
    single = [float(row["loss"]) for row in metrics(tmp_path / "whole")]
    row = metrics(tmp_path / "out")[1]
    assert row["step"] == "7"
    assert float(row["loss"]) == pytest.approx(sum(single[4:7]) / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.01}, "lr: 0.05 in the run, now 0.01"),
        ({"seed": 1, "clusters": 3}, "clusters: 2 in the run, now 3; seed: 0 in the run, now 1"),
        ({"precision": "bf16"}, "precision: fp32 in the run, now bf16"),
        ({"epochs": 4}, "epochs: 3 in the run, now 4"),
        ({"accumulate": 4}, "accumulate: 1 in the run, now 4"),
    ],
)
def test_other_settings_are_refused_with_both_values_and_nothing_is_touched(
    cache: Path, out: Path, changes: dict[str, Any], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=message):
        pretrain.run(tiny(cache, out, **changes))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
def test_a_run_of_before_a_setting_was_there_goes_on_with_its_default_alone(
    cache: Path, whole: Path, out: Path
) -> None:
    saved = torch.load(out / run_folder.LAST, weights_only=True)
    del saved["recipe"]["region_offset"], saved["recipe"]["weight_init"]
    saved["recipe"]["optimiser"] = "adamw"  # a setting of before
    torch.save(saved, out / run_folder.LAST)
    with pytest.raises(
        UsageError, match=r"region_offset: 0.0 in the run, now 0.7; weight_init: published in the run, now fan-in"
    ):
        pretrain.run(tiny(cache, out, region_offset=0.7, weight_init="fan-in"))
    assert pretrain.run(tiny(cache, out)) == 0
    assert_same_run(out, whole)


def test_a_run_of_before_with_another_optimiser_is_refused(cache: Path, out: Path) -> None:
    saved = torch.load(out / run_folder.LAST, weights_only=True)
    saved["recipe"]["optimiser"] = "lars"
    torch.save(saved, out / run_folder.LAST)
    with pytest.raises(UsageError, match="optimiser: lars in the run, now None"):
        pretrain.run(tiny(cache, out))


@pytest.mark.parametrize("change", ["a slide less", "a slide more", "other regions", "another encoder"])
def test_another_cohort_is_refused(out: Path, tmp_path: Path, change: str) -> None:
    """Order and prototypes refer to regions by index, so other regions would change their meaning."""
    other = tmp_path / "other"
    lengths = {"a slide less": LENGTHS[:-1], "a slide more": (*LENGTHS, 4), "other regions": LENGTHS[::-1]}
    write_cache(other, lengths.get(change, LENGTHS), encoder="another" if change == "another encoder" else "planted")
    with pytest.raises(UsageError, match=r"cohort: 5 slides, 30 regions of planted .* in the run, now . slides, "):
        pretrain.run(tiny(other, out))


def test_a_complete_run_is_left_alone(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(cache, tmp_path / "out", epochs=1)
    pretrain.run(config)
    before = {path.name: path.read_bytes() for path in config.out.iterdir()}
    assert pretrain.run(config) == 0
    assert {path.name: path.read_bytes() for path in config.out.iterdir()} == before
    assert "is complete (3 steps)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["after the last step", "between clustering and curves"])
def test_a_run_killed_after_its_last_step_is_finished(
    cache: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    config = tiny(cache, shutil.copytree(whole, tmp_path / "out"))
    prototypes = (config.out / "prototypes.h5").read_bytes()
    (config.out / "curves.svg").unlink()
    if lost == "after the last step":
        run_until(monkeypatch, tiny(cache, tmp_path / "early"), 7)
        shutil.copy(tmp_path / "early" / "prototypes.h5", config.out / "prototypes.h5")
    assert pretrain.run(config) == 0
    assert (config.out / "prototypes.h5").read_bytes() == prototypes
    assert (config.out / "curves.svg").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name"), [(RegionViT, "save"), (run_folder, "save_checkpoint")])
def test_a_run_killed_while_it_saves_its_last_step_shares_the_last_steps_weights(
    cache: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    config = tiny(cache, tmp_path / "out")
    run_until(monkeypatch, config, 8)

    def die(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(config)
    assert pretrain.run(config) == 0
    assert_same_run(whole, config.out)


@pytest.mark.slow
def test_half_written_files_and_rows_of_a_killed_run_are_cleared_away(
    cache: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_until(monkeypatch, tiny(cache, out), 5)
    for name in ("last.pt", "region_vit.pt", "prototypes.h5", "metrics.csv", "recipe.toml", "slides.csv", "curves.svg"):
        (out / f".{name}.abcd1234.tmp").write_bytes(b"half")
    with (out / "metrics.csv").open("a") as file:
        file.write("6,1,2.5,1.0,0.5,1.0,0.3,0.1,9.0,0.1,0.1,0.99,1,2,3,0.0,0.0,100.0,0.0\n8,2,2.5,1.0,0.")
    assert pretrain.run(tiny(cache, out)) == 0
    assert_same_run(whole, out)
    assert not list(out.glob(".*"))


def test_leftovers_of_a_run_killed_in_its_first_save_are_cleared_away(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".last.pt.abcd1234.tmp").write_bytes(b"half")
    pretrain.run(tiny(cache, out, epochs=1))
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(("content", "error"), [(b"no checkpoint", WeightsError), ({"model": 1}, UsageError)])
def test_a_file_that_is_no_checkpoint_is_named(
    cache: Path, tmp_path: Path, content: Any, error: type[Exception]
) -> None:
    path = tmp_path / "last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(error, match=r"last\.pt"):
        pretrain.run(tiny(cache, tmp_path))


@pytest.mark.slow
def test_a_full_disk_keeps_the_state_before(cache: Path, out: Path) -> None:
    config = tiny(cache, out)
    before = (config.out / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"(region_vit|last)\.pt cannot be written in full"):
            pretrain.run(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (config.out / "last.pt").read_bytes() == before
    assert not list(config.out.glob(".*"))
    assert pretrain.run(config) == 0


def test_a_cohort_with_other_tokens_is_another_one(tmp_path: Path) -> None:
    """Also if slides, regions and coordinates are the same; files of version 1 cannot show this."""
    folders = [write_cache(tmp_path / name, (3, 2), seed=seed) for name, seed in (("a", 0), ("same", 0), ("other", 1))]
    one, same, other = (describe_cohort(TokenStore.open(folder)) for folder in folders)
    assert one == same
    assert one != other
    for folder in folders:
        for path in folder.glob("*.h5"):
            with h5py.File(path, "r+") as file:
                without_digest(file)
    assert len({describe_cohort(TokenStore.open(folder)) for folder in folders}) == 1


@pytest.mark.parametrize("count", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_mutants_of_a_checkpoint_are_refused_or_equal(begun: Path, tmp_path: Path, count: int) -> None:
    path = tmp_path / "last.pt"
    whole, refused = (begun / "last.pt").read_bytes(), 0
    wanted = read_checkpoint(begun / "last.pt")
    for mutant in mutants(whole, count, seed=5):
        path.write_bytes(mutant)
        try:
            found = read_checkpoint(path)
        except WeightsError as error:
            refused += "last.pt" in error.message
            continue
        assert not differences(found, wanted)
        assert found.get("recipe") == wanted["recipe"]
    assert refused > count // 2
