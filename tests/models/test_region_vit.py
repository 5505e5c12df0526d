from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.weights import write_checkpoint
from tests.published import relative_error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.published import PublishedNumbers

TINY = RegionViTConfig(embed_dim=16, depth=2, heads=2, mlp_ratio=2, drop_path=0.1)


@pytest.fixture
def model(published: PublishedNumbers) -> RegionViT:
    model = RegionViT(RegionViTConfig()).eval()
    published.load_into(model)
    return model


@torch.no_grad()
def test_embeds_every_grid_as_the_published_code_does(model: RegionViT, published: PublishedNumbers) -> None:
    for h, w in published.meta["grids"]:
        tokens = published.input(f"tokens{h}x{w}", 2, 384, h, w).permute(0, 2, 3, 1)
        assert relative_error(model(tokens), published[f"region_vit/{h}x{w}"]) < 1e-5


@torch.no_grad()
def test_last_attention_is_that_of_the_published_code(model: RegionViT, published: PublishedNumbers) -> None:
    tokens = published.input("tokens14x14", 2, 384, 14, 14).permute(0, 2, 3, 1)
    expected = published["region_vit/last_attention_cls_14x14"]
    assert relative_error(model.last_attention(tokens), expected) < 1e-5


def test_saved_weights_come_back_with_their_config_in_eval_mode(tmp_path: Path) -> None:
    model = RegionViT(TINY, input_dim=12, grid=4)
    model.save(tmp_path / "region_vit.pt")
    loaded = RegionViT.from_file(str(tmp_path))  # a run folder
    assert not loaded.training
    assert (loaded.input_dim, loaded.grid, loaded.config.drop_path) == (12, 4, 0.0)
    tokens = torch.randn(2, 3, 5, 12)
    assert torch.equal(loaded(tokens), model.eval()(tokens))
    assert [path.name for path in tmp_path.iterdir()] == ["region_vit.pt"]


def test_checkpoints_of_hipt_need_no_config(tmp_path: Path) -> None:
    model = RegionViT(RegionViTConfig())
    state = {f"module.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"teacher": state | {"module.head.mlp.0.bias": torch.zeros(3)}}, tmp_path / "vit4k_xs_dino.pth")
    loaded = RegionViT.from_file(tmp_path / "vit4k_xs_dino.pth")
    tokens = torch.randn(1, 16, 16, 384)
    assert torch.equal(loaded(tokens), model.eval()(tokens))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls+mean", "cls+mean+input"])
def test_means_of_present_tokens_follow_cls(pooling: Any, tmp_path: Path) -> None:
    config = replace(TINY, pooling=pooling, registers=1)
    model = RegionViT(config, torch.Generator().manual_seed(0), input_dim=6, grid=3).eval()
    plain = RegionViT(replace(config, pooling="cls"), input_dim=6, grid=3).eval()
    plain.load_state_dict(model.state_dict())
    tokens = torch.randn(4, 3, 3, 6)
    present = torch.rand(4, 3, 3) < 0.6
    present[1] = False
    for seen in (None, present):
        found = model(tokens, present=seen)
        assert found.shape == (4, config.region_dim) == (4, 16 * (1 + pooling.count("+")))
        assert torch.equal(model.outputs(model.project(tokens), present=seen), found[:, :32])
        assert config.head_dim == 32
        torch.testing.assert_close(found[:, :16], plain(tokens, present=seen))
        projected = model.project(tokens)
        _, grid = model.encode_tokens(projected, present=seen)
        for region in range(4):
            there = (torch.ones(3, 3) if seen is None else seen[region]).flatten() > 0
            means = [
                values[region].flatten(0, 1)[there].mean(0) if there.any() else torch.zeros(16)
                for values in (grid, projected)
            ]
            torch.testing.assert_close(found[region, 16:32], means[0])
            if pooling == "cls+mean+input":
                wanted = (means[1] - means[1].mean()) / (means[1].var(correction=0) + 1e-6).sqrt()
                torch.testing.assert_close(found[region, 32:], wanted)
    model.save(tmp_path / "model.pt")
    again = RegionViT.from_file(tmp_path / "model.pt")
    assert again.config.pooling == pooling
    assert torch.equal(again(tokens), model(tokens))
    assert "pooling" not in plain.shape()


def test_a_foreign_config_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint({"config": {"width": 3}, "state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="width"):
        RegionViT.from_file(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("name", "value"), [("embed_dim", 16.0), ("grid", 3.0), ("heads", "2"), ("pooling", ["cls"]), ("pooling", "max")]
)
def test_a_config_with_values_of_another_type_is_refused(name: str, value: object, tmp_path: Path) -> None:
    model = RegionViT(TINY, input_dim=6, grid=3)
    stored = {"config": model.shape() | {name: value}, "state_dict": model.state_dict()}
    write_checkpoint(stored, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="not a region ViT config"):
        RegionViT.from_file(tmp_path / "other.pt")


def test_tokens_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, h, w, 12\), got \(2, 4, 4, 13\)"):
        RegionViT(TINY, input_dim=12, grid=4)(torch.zeros(2, 4, 4, 13))


def test_the_same_generator_gives_the_same_initial_weights() -> None:
    first, again = (
        RegionViT(TINY, torch.Generator().manual_seed(3), input_dim=12, grid=4).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert 0.01 < first["blocks.0.attn.qkv.weight"].std() < 0.03


@pytest.mark.parametrize("name", ["input_dim", "grid", "embed_dim", "depth", "mlp_ratio", "registers"])
@pytest.mark.parametrize("value", [10**6, 10**12, 1e300, -1])
def test_an_architecture_that_the_file_has_no_values_for_is_refused_before_memory_is_allocated(
    tmp_path: Path, name: str, value: float
) -> None:
    model = RegionViT(RegionViTConfig(embed_dim=4, depth=1, heads=1), input_dim=3, grid=2)
    stored = {"config": model.shape() | {name: value}, "state_dict": model.state_dict(), "provenance": {}}
    write_checkpoint(stored, tmp_path / "region_vit.pt")
    with pytest.raises(WeightsError, match=r"the stored config (describes a network of|is not a region ViT config)"):
        RegionViT.from_file(tmp_path / "region_vit.pt")
