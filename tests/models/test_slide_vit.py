"""The slide ViT: what it depends on, and what it must not depend on."""

from pathlib import Path

import pytest
import torch

from slpd_toolkit.config.slide_vit import SlideViTConfig
from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.models.slide_vit import SlideRegions, SlideViT
from slpd_toolkit.models.weights import write_checkpoint

WIDTH = 6


def network(**settings: object) -> SlideViT:
    config = SlideViTConfig(**{"embed_dim": 16, "depth": 2, "heads": 4} | settings)  # type: ignore[arg-type]
    return SlideViT(config, torch.Generator().manual_seed(0), input_dim=WIDTH).eval()


def slide(count: int = 7, seed: int = 1) -> SlideRegions:
    draws = torch.Generator().manual_seed(seed)
    places = torch.randperm(25, generator=draws)[:count]
    return SlideRegions(
        torch.randn(1, count, WIDTH, generator=draws),
        torch.stack((places // 5, places % 5), dim=-1).float()[None],
        torch.ones(1, count, dtype=torch.bool),
    )


def test_slopes_halve_and_the_last_head_sees_all() -> None:
    assert network().slopes.tolist() == [2.0, 1.0, 0.5, 0.0]


def test_attention_is_that_of_a_plain_transformer_with_the_distances_as_bias() -> None:
    model, regions = network(depth=1), slide()
    x = torch.cat((model.cls_token, model.embed(regions.values)), dim=1)
    distance = torch.zeros(8, 8)
    for i in range(7):
        for j in range(7):
            distance[i + 1, j + 1] = (regions.places[0, i] - regions.places[0, j]).square().sum().sqrt()
    block = model.blocks[0]
    q, k, v = block.attn.qkv(block.norm1(x)).view(1, 8, 3, 4, 4).permute(2, 0, 3, 1, 4)  # type: ignore[operator,union-attr]
    scores = q @ k.transpose(-1, -2) / 2 - torch.tensor([2.0, 1.0, 0.5, 0.0])[:, None, None] * distance
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + block.attn.proj(mixed)  # type: ignore[operator,union-attr]
    x = model.norm(x + block.mlp(block.norm2(x)))  # type: ignore[operator]
    found_slide, found_regions = model(regions)
    torch.testing.assert_close(found_slide, x[:, 0])
    torch.testing.assert_close(found_regions, x[:, 1:])
    torch.testing.assert_close(model.last_attention(regions), scores.softmax(-1)[:, :, 0])


def test_neither_order_nor_padding_nor_the_place_and_turn_of_the_slide_matters() -> None:
    model, regions = network(), slide()
    whole = model(regions)[0]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    mixed = SlideRegions(*(each[:, order] for each in regions))
    torch.testing.assert_close(model(mixed)[0], whole)
    padded = SlideRegions(
        torch.cat((regions.values, torch.full((1, 3, WIDTH), 9.0)), 1),
        torch.cat((regions.places, torch.zeros(1, 3, 2)), 1),
        torch.cat((regions.present, torch.zeros(1, 3, dtype=torch.bool)), 1),
    )
    torch.testing.assert_close(model(padded)[0], whole)
    assert (model.last_attention(padded)[..., 8:] == 0).all()
    turned = regions._replace(places=torch.stack((-regions.places[..., 1], regions.places[..., 0]), -1) + 40)
    torch.testing.assert_close(model(turned)[0], whole)


def test_where_regions_lie_matters() -> None:
    model, regions = network(), slide()
    moved = regions._replace(places=regions.places.roll(1, dims=1))
    assert not torch.allclose(model(moved)[0], model(regions)[0], atol=1e-3)


def test_hidden_regions_are_not_seen() -> None:
    model, regions = network(), slide()
    hidden = torch.zeros(1, 7, dtype=torch.bool)
    hidden[0, 2] = True
    other = regions._replace(values=regions.values.clone())
    other.values[0, 2] = 100.0
    torch.testing.assert_close(model(regions, hidden)[1], model(other, hidden)[1])
    assert not torch.allclose(model(regions)[1], model(other)[1])


def test_a_file_holds_the_scale_and_the_provenance(tmp_path: Path) -> None:
    model, regions = network(), slide()
    model.fit_scale(regions.values[0].numpy() * 3 + 1)
    model.save(tmp_path / "slide_vit.pt", {"step": 3, "regions": {"source": "mean-tokens"}})
    again, provenance = SlideViT.from_file(tmp_path)
    assert provenance == {"step": 3, "regions": {"source": "mean-tokens"}}
    assert torch.equal(again(regions)[0], model(regions)[0])
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="is not a slide ViT"):
        SlideViT.from_file(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["input_dim", "embed_dim", "depth", "mlp_ratio"])
@pytest.mark.parametrize("value", [10**6, 10**12, 1e300])
def test_an_architecture_that_the_file_has_no_values_for_is_refused_before_memory_is_allocated(
    tmp_path: Path, name: str, value: float
) -> None:
    model = SlideViT(SlideViTConfig(embed_dim=4, depth=1, heads=1), input_dim=3)
    model.save(tmp_path / "slide_vit.pt")
    stored = torch.load(tmp_path / "slide_vit.pt", weights_only=True)
    write_checkpoint(stored | {"slide_vit": stored["slide_vit"] | {name: value}}, tmp_path / "slide_vit.pt")
    with pytest.raises(WeightsError, match=r"describes a network of|is not a slide ViT"):
        SlideViT.from_file(tmp_path / "slide_vit.pt")
