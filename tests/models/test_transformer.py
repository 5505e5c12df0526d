from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from slpd_toolkit.config.region_vit import RegionViTConfig, WeightInit
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.transformer import Block, VisionTransformer, initialise, resize_position_embedding

TINY = RegionViTConfig(embed_dim=16, depth=3, heads=2, drop_path=0.0)


def naive_attention(block: Block, x: Tensor) -> Tensor:
    """Compute softmax attention one head at a time; returns the projected result."""
    attn, dim = block.attn, x.shape[-1]
    size = dim // attn.heads
    q, k, v = attn.qkv(x).split(dim, dim=-1)
    heads = []
    for i in range(attn.heads):
        part = slice(i * size, (i + 1) * size)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / size**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    projected: Tensor = attn.proj(torch.cat(heads, dim=-1))
    return projected


def test_block_is_pre_norm_attention_then_mlp() -> None:
    block = Block(16, heads=2, mlp_ratio=4)
    x = torch.randn(3, 5, 16)
    attended = x + naive_attention(block, block.norm1(x))
    expected = attended + block.mlp(block.norm2(attended))
    torch.testing.assert_close(block(x), expected)


def test_the_cls_row_alone_equals_the_first_row_of_the_whole_block() -> None:
    block = Block(16, heads=2, mlp_ratio=4)
    initialise(block)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 5, 16)
    scale = torch.rand(2, 3, 1, 1)
    torch.testing.assert_close(block.forward_cls(x, scale), block(x, scale)[:, :1])


def test_autocast_stays_close_to_full_precision_in_training_and_without_gradients() -> None:
    model = RegionViT(TINY, torch.Generator().manual_seed(0), input_dim=12, grid=4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(6, 5, 4, 12, generator=torch.Generator().manual_seed(2))
    outputs, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(tokens)
        outputs.append(output)
        weight = model.get_parameter("blocks.0.attn.qkv.weight")
        gradients.append(torch.autograd.grad(output.square().sum(), weight)[0])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs.append(model(tokens))
    for output in outputs[1:]:
        assert 0 < (output - outputs[0]).norm() / outputs[0].norm() < 0.02
    assert 0 < (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 0.05


def test_the_learned_grid_keeps_its_position_embedding() -> None:
    pos_embed = torch.randn(1, 17, 8)
    assert resize_position_embedding(pos_embed, 4, 4, 4) is pos_embed


@pytest.mark.parametrize(("h", "w"), [(2, 2), (4, 7), (9, 3), (16, 16)])
def test_resized_position_embedding_has_the_grid_asked_for_and_the_cls_row(h: int, w: int) -> None:
    pos_embed = torch.randn(1, 1 + 14 * 14, 8)
    resized = resize_position_embedding(pos_embed, 14, h, w)
    assert resized.shape == (1, 1 + h * w, 8)
    assert torch.equal(resized[:, 0], pos_embed[:, 0])


def test_resizing_interpolates_along_the_right_axis() -> None:
    rows = torch.arange(14.0).repeat_interleave(14)
    pos_embed = torch.cat((torch.zeros(1), rows)).view(1, -1, 1)
    plane = resize_position_embedding(pos_embed, 14, 7, 14)[0, 1:, 0].view(7, 14)
    assert torch.allclose(plane, plane[:, :1].expand(7, 14), atol=1e-4)
    assert (plane[1:, 0] - plane[:-1, 0] > 1.5).all()


def test_stochastic_depth_is_off_in_eval_and_follows_its_generator_in_training() -> None:
    model = RegionViT(replace(TINY, drop_path=0.5), input_dim=12, grid=4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(8, 4, 4, 12)
    eval_output = model.eval()(tokens)
    model.train()
    first = model(tokens, torch.Generator().manual_seed(0))
    again = model(tokens, torch.Generator().manual_seed(0))
    other = model(tokens, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, eval_output)
    assert torch.equal(model.eval()(tokens), eval_output)


def test_stochastic_depth_keeps_the_expectation_and_spares_the_first_block() -> None:
    model = RegionViT(replace(TINY, drop_path=0.4), input_dim=12, grid=4).train()
    scales = model._branch_scales(torch.empty(4000, 4, 4, 16), torch.Generator().manual_seed(0))
    assert scales is not None
    assert torch.equal(scales[0], torch.ones_like(scales[0]))
    torch.testing.assert_close(torch.unique(scales[-1]), torch.tensor([0.0, 1 / 0.6]))
    assert scales.mean(dim=(1, 2, 3, 4)).sub(1).abs().max() < 0.05


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--heads: got 3, allowed: a divisor of --embed-dim \(16\)"):
        replace(TINY, heads=3)
    with pytest.raises(ValueError, match="multiple of heads, got 16 and 3"):
        VisionTransformer(embed_dim=16, grid=4, depth=1, heads=3, mlp_ratio=4.0, drop_path=0.0)


def test_weights_start_as_the_scheme_says() -> None:
    published, fan_in = (
        RegionViT(
            RegionViTConfig(embed_dim=64, depth=2, heads=4, weight_init=scheme),
            torch.Generator().manual_seed(0),
            input_dim=100,
            grid=10,
        )
        for scheme in get_args(WeightInit)
    )
    for name, parameter in fan_in.state_dict().items():
        before = published.state_dict()[name]
        if parameter.ndim == 1:
            assert torch.equal(parameter, before)
            continue
        inputs = parameter.shape[1]
        expected = {"pos_embed": 0.88, "cls_token": 0.02}.get(name, inputs**-0.5)  # 0.88: 1, cut off at 2
        assert float(before.std()) == pytest.approx(0.02, rel=0.3 if name == "cls_token" else 0.03)
        assert float(parameter.std()) == pytest.approx(expected, rel=0.3 if name == "cls_token" else 0.03)
