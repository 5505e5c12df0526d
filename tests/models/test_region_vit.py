from __future__ import annotations

from typing import TYPE_CHECKING

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


def test_a_foreign_config_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint({"config": {"width": 3}, "state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="width"):
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
