"""Attention ignores missing tokens, whatever their values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.transformer import Block, resize_position_embedding

SHAPE = RegionViTConfig(embed_dim=16, depth=3, heads=2, drop_path=0.0)
GRIDS = [(4, 4), (3, 5)]


@pytest.fixture
def model() -> RegionViT:
    model = RegionViT(SHAPE, input_dim=12, grid=4).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.eval()


def draw(h: int, w: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw tokens and presence of five regions: the first has all tokens, the second has one, the third has none."""
    rng = torch.Generator().manual_seed(seed)
    present = torch.rand(5, h, w, generator=rng) < 0.6
    present[0], present[1], present[2] = True, False, False
    present[1, 1, 2] = True
    return torch.randn(5, h, w, 12, generator=rng, dtype=torch.float64), present


def block_of(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one block over (T, E) tokens, one head and query at a time; also the (heads, T) attention of CLS."""
    dim, heads = x.shape[-1], block.attn.heads
    q, k, v = block.attn.qkv(block.norm1(x)).split(dim, dim=-1)
    rows, cls = [], []
    for t in range(len(x)):
        parts = []
        for head in torch.arange(dim).view(heads, -1):
            weights = ((k[:, head] @ q[t, head]) / len(head) ** 0.5).softmax(0)
            parts.append(weights @ v[:, head])
            if t == 0:
                cls.append(weights)
        rows.append(torch.cat(parts))
    x = x + block.attn.proj(torch.stack(rows))
    return x + block.mlp(block.norm2(x)), torch.stack(cls)


def embed_present(model: RegionViT, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Embed a region from its present tokens only; also return the last attention of CLS."""
    h, w = present.shape
    places = resize_position_embedding(model.pos_embed, model.grid, h, w)[0]
    x = [model.cls_token[0, 0] + places[0]]
    x += [F.gelu(model.phi[0](tokens[i, j])) + places[1 + i * w + j] for i, j in present.nonzero().tolist()]
    attention, sequence = torch.empty(0), torch.stack(x)
    for block in model.blocks:
        assert isinstance(block, Block)
        sequence, attention = block_of(block, sequence)
    embedded: Tensor = model.norm(sequence[0])
    return embedded, attention


@torch.no_grad()
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_a_region_with_gaps_is_embedded_as_the_tokens_that_it_has(model: RegionViT, h: int, w: int) -> None:
    tokens, present = draw(h, w)
    embedded, attention = model(tokens, present=present), model.last_attention(tokens, present)
    for n in range(len(tokens)):
        wanted, weights = embed_present(model, tokens[n], present[n])
        torch.testing.assert_close(embedded[n], wanted)
        seen = F.pad(present[n].flatten(), (1, 0), value=True)
        torch.testing.assert_close(attention[n, :, seen], weights)
        assert (attention[n, :, ~seen] == 0).all()


@pytest.mark.parametrize("value", [0.0, 1e4, "random"])
@pytest.mark.parametrize("training", [False, True])
def test_the_value_of_a_missing_token_does_not_matter_and_it_teaches_nothing(
    model: RegionViT, value: float | str, training: bool
) -> None:
    tokens, present = draw(4, 4)
    other = torch.randn_like(tokens) if value == "random" else torch.full_like(tokens, float(value))
    model.train(training)
    results = []
    for filled in (tokens, torch.where(present.unsqueeze(-1), tokens, other)):
        leaf = filled.clone().requires_grad_()
        output = model(leaf, present=present)
        gradients = torch.autograd.grad(output.square().sum(), [leaf, *model.parameters()])
        assert (gradients[0][~present] == 0).all()
        assert (gradients[0][present] != 0).any(-1).all()
        results.append([output, *gradients[1:], model.last_attention(leaf, present)])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@torch.no_grad()
def test_a_mask_without_gaps_changes_no_more_than_rounding(model: RegionViT) -> None:
    tokens, _ = draw(4, 4)
    everywhere = torch.ones(5, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(model(tokens, present=everywhere), model(tokens), rtol=1e-12, atol=1e-12)


def test_a_region_without_any_token_is_finite_in_bfloat16_too(model: RegionViT) -> None:
    tokens, present = draw(4, 4)
    single = model.float()
    exact = single(tokens, present=present)
    with torch.autocast("cpu", torch.bfloat16):
        output = single(tokens, present=present)
    assert 0 < (output - exact).norm() / exact.norm() < 0.02
    gradients = torch.autograd.grad(output.square().sum(), list(single.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(exact[2], single(torch.zeros(1, 1, 1, 12), present=torch.zeros(1, 1, 1).bool())[0])


def test_a_mask_of_another_shape_is_refused(model: RegionViT) -> None:
    tokens, present = draw(4, 4)
    with pytest.raises(ValueError, match=r"present must be \(5, 4, 4\), got \(1, 4, 4\)"):
        model(tokens, present=present[:1])
    with pytest.raises(ValueError, match=r"present must be \(5, 4, 4\), got \(5, 16\)"):
        model.last_attention(tokens, present.flatten(1))
