"""Inputs that stage two rejects, on the command line: exit code, one message, no traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build, shipped_folder
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.config.settings import assemble
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.store.token_file import TokenFile
from slpd_toolkit.training.recorder import Recorder
from tests.token_factory import LENGTHS, without_digest, write_cache
from tests.training.runs import TINY, assert_same_run, checkpoint, tiny

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_curves")


def slpd(*arguments: object, **settings: object) -> tuple[int, str]:
    """Run the command; return its exit code and its messages on one line."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments] + flags)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.slow
def test_the_command_trains(cache: Path, tmp_path: Path) -> None:
    code, said = slpd("pretrain", cache, out=tmp_path / "out", **TINY)
    assert code == 0, said
    assert "Done." in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"clusters": 8}, "--min-regions: got 5, allowed: at least --clusters (8). next: A slide cannot have more"),
        ({"min_regions": 8}, "1 of 5 slides has at least --min-regions (8) regions; --neighbours 1 requires 2"),
        ({"neighbours": 4}, "4 of 5 slides have at least --min-regions (5) regions; --neighbours 4 requires 5"),
        (
            {"batch_size": 31},
            "--batch-size: 31 x 1 processes is more than the 30 regions in the cache. next: Use at most 30",
        ),
        (
            {"global_side": 7},
            "6 x 6. next: HIPT and SLPD crop 14 and 6 of 16 tokens; here that is --global-side 5 --local-side 2.",
        ),
        ({"local_side": 6}, "--local-side: got 6, allowed: at most --global-side (5)"),
        ({"heads": 5}, "--heads: got 5, allowed: a divisor of --embed-dim (24)"),
        ({"accumulate": 3}, "--accumulate: got 3, allowed: a divisor of --batch-size (8)"),
        ({"seed": -1}, "--seed: got -1, allowed: 0 to 2147483647"),
        ({"seed": 2**31}, "--seed: got 2147483648"),
        ({"dino_weight": 0}, "--prototype-epoch: got 1, allowed: 0 if --dino-weight is 0"),
        ({"lr": "nan"}, "--lr: got nan, allowed: at least 0"),
        ({"precision": "fp16"}, "--precision: fp16 needs a GPU"),
        ({"device": "gpu"}, "--device: got gpu, allowed: auto, cpu"),
        ({"centre_momentum": 1}, "--centre-momentum: got 1.0, allowed: 0 to below 1"),
        ({"global_crops": 1, "local_crops": 0}, "--global-crops + --local-crops: got 1, allowed: at least 2"),
    ],
)
def test_settings_that_cannot_work(cache: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    out = tmp_path / "out"
    code, message = slpd("pretrain", cache, out=out, **{**TINY, **settings})
    assert (code, said in message) == (2, True), message
    assert not out.exists()


def nan(folder: Path) -> None:
    with h5py.File(folder / "slide003.h5", "r+") as file:
        file["tokens"][2, 0, 0, 0] = np.nan
        without_digest(file)


def cut(folder: Path) -> None:
    path = folder / "slide003.h5"
    os.truncate(path, TokenFile.open(path).tokens_offset + 1000)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "does not exist. next: Write one with `slpd embed`"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "has no token file (*.h5)"),
        (lambda folder: write_cache(folder, (5,), encoder="other"), "encoder: 'planted' there, 'other' here"),
        (lambda folder: write_cache(folder, (5,), grid=7), "region_px: 1536 there, 1792 here"),
        (lambda folder: write_cache(folder, (0,) * 5), "none of its slides (5) has regions"),
        (nan, "slide003.h5: region 2 contains tokens that are NaN or infinite. next: Remove the file"),
        (cut, "slide003.h5"),
        (lambda folder: (folder / "slide003.h5").write_bytes(b"no HDF5"), "slide003.h5 cannot be read as a token file"),
    ],
)
def test_caches_that_cannot_be_trained_on(tmp_path: Path, spoil: Callable[[Path], Any], said: str) -> None:
    folder = write_cache(tmp_path / "cache", LENGTHS)
    spoil(folder)
    code, message = slpd("pretrain", folder, out=tmp_path / "out", **TINY)
    assert (code, said in message) == (1, True), message
    assert not (tmp_path / "out" / "last.pt").exists()


@pytest.mark.slow
def test_a_file_damaged_during_training_is_named_and_the_run_goes_on_when_it_is_restored(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(cache, tmp_path / "cache")
    end_step = Recorder.end_step

    def damage(recorder: Recorder, step: int, *rest: Any) -> bool:
        if step == 4:
            cut(folder)
        return end_step(recorder, step, *rest)

    config = tiny(folder, tmp_path / "out", workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "end_step", damage)
        with pytest.raises(CacheError, match=r"slide003\.h5 is truncated: region . has"):
            pretrain.run(config)
    assert checkpoint(config.out)["step"] in {3, 6}
    shutil.copy(cache / "slide003.h5", folder)
    assert pretrain.run(config) == 0
    pretrain.run(tiny(cache, tmp_path / "whole"))
    assert_same_run(config.out, tmp_path / "whole")


@pytest.mark.parametrize("out", ["a file", "below a file", "/proc", "/proc/run"])
def test_a_folder_that_cannot_be_written_to(cache: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "run"}.get(out, Path(out))
    code, said = slpd("pretrain", cache, out=folder, **TINY)
    reason = "written to" if out.startswith("/proc") else "created: it, or one of its parents, is an existing file"
    assert (code, f"--out: {folder} cannot be {reason}" in said) == (2, True), said
    assert "check tokens" not in said


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("batch_sise = 4", "unknown key `batch_sise` (did you mean `batch_size`?)"),
        ("epochs = '3'\nlr = true", "`epochs` = '3': allowed: int; `lr` = True: allowed: float"),
        ("optimiser = 'sgd'", "`optimiser` = 'sgd': no longer a setting. AdamW is the only optimizer; remove the key"),
        ("[prototypes]\nclusters = 4", "unknown key `prototypes`"),
        ("epochs = ", "cannot be read"),
    ],
)
def test_recipes_with_mistakes(cache: Path, tmp_path: Path, recipe: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    code, message = slpd("pretrain", cache, out=tmp_path / "out", recipe=path)
    assert (code, said in message) == (2, True), message


@pytest.mark.slow
def test_the_recipe_that_a_run_wrote_repeats_it(cache: Path, tmp_path: Path) -> None:
    slpd("pretrain", cache, out=tmp_path / "one", **TINY)
    recipe = tmp_path / "one" / "recipe.toml"
    recipe.write_text(f'optimiser = "adamw"\n{recipe.read_text()}')  # as version 0.1 wrote it
    code, said = slpd("pretrain", recipe=tmp_path / "one" / "recipe.toml", out=tmp_path / "two")
    assert code == 0, said
    assert_same_run(tmp_path / "one", tmp_path / "two")
    code, said = slpd("pretrain", recipe=tmp_path / "one" / "recipe.toml")
    assert (code, "is complete" in said) == (0, True), said


@pytest.mark.parametrize("shape", [{"embed_dim": 48}, {"input_dim": 16}, {"grid": 4}, {"depth": 3}])
def test_initial_weights_of_another_shape(cache: Path, tmp_path: Path, shape: dict[str, int]) -> None:
    sizes = {"input_dim": 8, "grid": 5} | {name: shape[name] for name in ("input_dim", "grid") if name in shape}
    architecture = {"embed_dim": 24, "depth": 2, "heads": 3} | {k: v for k, v in shape.items() if k not in sizes}
    network = RegionViT(assemble(RegionViTConfig, architecture), **sizes)  # type: ignore[arg-type]
    network.save(tmp_path / "init.pt")
    code, said = slpd("pretrain", cache, out=tmp_path / "out", init=tmp_path / "init.pt", **TINY)
    assert (code, "init.pt: the weights do not match this RegionViT" in said) == (2, True), said


@pytest.mark.slow
def test_initial_weights_in_hipts_layout(tmp_path: Path) -> None:
    """384-d tokens, prefixed keys, heads of all kinds: the backbone is loaded, also into the teacher."""
    cache = write_cache(tmp_path / "cache", (8, 8), grid=16, dim=384)
    shape = RegionViTConfig(depth=2)
    wanted = RegionViT(shape, torch.Generator().manual_seed(7)).state_dict()
    teacher = {f"module.backbone.{name}": value for name, value in wanted.items()} | {"module.head.x": torch.ones(2)}
    torch.save({"teacher": teacher, "student": {}, "epoch": 3}, tmp_path / "vit4k.pth")
    changes = {"global_side": 14, "local_side": 6, "embed_dim": 192, "heads": 6, "lr": 0.0, "min_lr": 0.0, "epochs": 1}
    config = tiny(cache, tmp_path / "out", init=tmp_path / "vit4k.pth", **changes)
    assert pretrain.run(config) == 0
    found = RegionViT.from_file(config.out / "region_vit.pt").state_dict()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_self_distillation_alone_needs_no_slide_with_prototypes(cache: Path, tmp_path: Path) -> None:
    """Prototype settings are not used, not even at the end, where prototypes.h5 is optional."""
    config = tiny(cache, tmp_path / "out", intra_weight=0.0, inter_weight=0.0, min_regions=1, clusters=4, epochs=1)
    assert pretrain.run(config) == 0
    assert (config.out / "prototypes.h5").exists()
    few = tiny(cache, tmp_path / "few", intra_weight=0.0, inter_weight=0.0, min_regions=40, epochs=1)
    assert pretrain.run(few) == 0
    assert not (few.out / "prototypes.h5").exists()


@pytest.mark.parametrize("recipe", sorted(shipped_folder("stages").glob("pretrain/*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_understood(recipe: Path) -> None:
    config = build(PretrainConfig, {"cache": Path("cache"), "out": Path("run")}, recipe)
    assert config.prototypes.min_regions >= config.prototypes.clusters


def test_there_are_shipped_recipes() -> None:
    assert {path.stem for path in shipped_folder("stages").glob("pretrain/*.toml")} >= {
        "nsclc",
        "brca",
        "dino-only",
        "smoke",
    }


@pytest.mark.parametrize("name", ["epochs", "batch_size", "out_dim", "workers", "log_every", "neighbours", "clusters"])
def test_counts_are_at_least_one(cache: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: got 0, allowed: at least 1"):
        tiny(cache, tmp_path, **{name: 0})
