"""Weights for other tools, read by the rules of those tools."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from slpd_toolkit.commands import export
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.models.region_vit import RegionViT

if TYPE_CHECKING:
    from pathlib import Path

SMALL = RegionViTConfig(embed_dim=24, depth=2, heads=3, drop_path=0.1)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run folder with a network of HIPT's architecture, and its weights."""
    model = RegionViT(RegionViTConfig(), torch.Generator().manual_seed(1))
    model.save(tmp_path / "region_vit.pt", {"encoder": "planted"})
    return tmp_path, model.state_dict()


@pytest.mark.slow
def test_hipt_reads_it_by_its_own_rule(run: tuple[Path, dict[str, Any]]) -> None:
    """torch.load, key "teacher", both prefixes removed, strict load with a 14 x 14 grid and 384 features."""
    folder, wanted = run
    assert export.run(ExportConfig(source=folder, out=folder / "hipt.pth")) == 0
    state = torch.load(folder / "hipt.pth", map_location="cpu", weights_only=True)["teacher"]
    state = {name.replace("module.", "").replace("backbone.", ""): value for name, value in state.items()}
    model = RegionViT(RegionViTConfig(embed_dim=192, depth=6, heads=6), input_dim=384, grid=14)
    model.load_state_dict(state, strict=True)
    assert state["pos_embed"].shape == (1, 197, 192)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    again = RegionViT.from_file(folder / "hipt.pth").state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.items())


def test_safetensors_hold_weights_and_config(tmp_path: Path) -> None:
    model = RegionViT(SMALL, input_dim=8, grid=5)
    model.save(tmp_path / "region_vit.pt")
    out = tmp_path / "region_vit.safetensors"
    assert export.run(ExportConfig(source=tmp_path / "region_vit.pt", out=out, to="safetensors")) == 0
    stored = load_file(out)
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    again = RegionViT.from_file(out)
    assert again.config.embed_dim == 24
    tokens = torch.randn(2, 6, 6, 8)
    assert torch.equal(again(tokens), model.eval()(tokens))


def test_a_shape_that_hipts_loader_does_not_know_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RegionViT(SMALL, input_dim=8, grid=5).save(tmp_path / "region_vit.pt")
    export.run(ExportConfig(source=tmp_path, out=tmp_path / "small.pth"))
    said = " ".join(capsys.readouterr().err.split())
    assert "does not have HIPT's architecture" in said
    assert "input_dim=8, grid=5, embed_dim=24" in said
    assert "HIPT returns only" not in said
    pooled = RegionViT(replace(SMALL, pooling="cls+mean"), input_dim=8, grid=5)
    pooled.save(tmp_path / "region_vit.pt")
    export.run(ExportConfig(source=tmp_path, out=tmp_path / "pooled.pth"))
    said = " ".join(capsys.readouterr().err.split())
    assert "HIPT returns only the first 24 features" in said
    assert "pooling=" not in said


@pytest.mark.parametrize(
    ("out", "to"), [("x.pt", "hipt"), ("x.pth", "safetensors"), ("x", "hipt"), ("none/x.pth", "hipt"), ("", "hipt")]
)
def test_names_that_do_not_fit(tmp_path: Path, out: str, to: Literal["hipt", "safetensors"]) -> None:
    RegionViT(SMALL, input_dim=8, grid=5).save(tmp_path / "region_vit.pt")
    with pytest.raises(UsageError, match=r"--out: got .*, allowed: a .* file in a folder that exists"):
        export.run(ExportConfig(source=tmp_path, out=tmp_path / out, to=to))


def test_a_source_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"region_vit\.pt: no such weights file"):
        export.run(ExportConfig(source=tmp_path, out=tmp_path / "x.pth"))
