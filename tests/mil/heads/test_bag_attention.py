from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slpd_toolkit.mil.heads import bag_attention
from slpd_toolkit.mil.heads.aggregators.hipt import SlideTransformer
from slpd_toolkit.mil.heads.aggregators.trans_mil import TransMil
from slpd_toolkit.mil.heads.bag_attention import in_blocks, nystroem, self_attention

if TYPE_CHECKING:
    from slpd_toolkit.mil.heads.aggregator import Aggregator

SIZES = (40, 7, 23)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def bags(width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(1)
    return torch.randn(len(SIZES), max(SIZES), width) * mask.unsqueeze(2), mask


@pytest.mark.parametrize("at_once", [1, 100, 1 << 20])
def test_blocks_are_exact_forward_and_backward(at_once: int) -> None:
    query, key, value = parts = [torch.randn(3, 29, 5, requires_grad=True) for _ in range(3)]
    wanted = F.scaled_dot_product_attention(query, key, value)
    found = in_blocks(query, key, value, at_once=at_once)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), parts),
        torch.autograd.grad((wanted * weights).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_dropout_in_blocks_is_drawn_once_for_both_passes() -> None:
    value = torch.randn(2, 30, 4, requires_grad=True)
    zeros = torch.zeros(2, 30, 4)
    found = in_blocks(zeros, zeros, value, dropout=0.5, at_once=120)
    (gradient,) = torch.autograd.grad(found.sum(), value)
    # Attention is uniform, so the gradient of a value counts the queries that kept it: 2 / 30 each.
    kept = gradient[:, :, 0] * 30 / 2
    torch.testing.assert_close(kept, kept.round())
    torch.testing.assert_close((gradient * value).sum(), found.sum())
    assert len(set(kept.round().flatten().tolist())) > 3


@pytest.mark.parametrize("head", [TransMil, SlideTransformer])
def test_large_bags_have_the_same_result_in_blocks(head: type[Aggregator], monkeypatch: pytest.MonkeyPatch) -> None:
    network = head(16, 2).eval()
    batch, mask = bags()
    wanted = network(batch, mask)
    monkeypatch.setattr(bag_attention, "_AT_ONCE", 50)
    for found in (network(batch, mask), network(batch.requires_grad_(), mask)):
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.attention, wanted.attention, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [TransMil, SlideTransformer])
def test_approximated_bags_depend_neither_on_padding_nor_on_each_other(
    head: type[Aggregator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_attention, "_AT_ONCE", 1)
    monkeypatch.setattr(bag_attention, "EXACT_REGIONS", 20)
    monkeypatch.setattr(bag_attention, "nystroem", lambda *parts: nystroem(*parts, landmarks=8))
    network = head(16, 2).eval()
    batch, mask = bags()
    together = network(batch, mask)
    for bag, size in enumerate(SIZES):
        alone = network(batch[bag : bag + 1, :size], mask[bag : bag + 1, :size])
        torch.testing.assert_close(together.logits[bag], alone.logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.attention[bag, :size], alone.attention[0], rtol=1e-4, atol=1e-5)


def test_the_approximation_is_close_for_regions_in_groups() -> None:
    groups = torch.randn(8, 6).repeat_interleave(50, dim=0)
    query, key, value = ((groups + 0.05 * torch.randn(2, 400, 6)).requires_grad_() for _ in range(3))
    wanted = F.scaled_dot_product_attention(query, key, value)
    found = nystroem(query, key, value, landmarks=8)
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    (gradient,) = torch.autograd.grad(found.sum(), query)
    assert gradient.isfinite().all()


def test_only_bags_beyond_the_limit_are_approximated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def note(*parts: torch.Tensor) -> torch.Tensor:
        seen.append(parts[0].shape[1])
        return parts[2]

    monkeypatch.setattr(bag_attention, "_AT_ONCE", 1)
    monkeypatch.setattr(bag_attention, "EXACT_REGIONS", 22)
    monkeypatch.setattr(bag_attention, "nystroem", note)
    batch, mask = bags()
    with torch.no_grad():
        self_attention(nn.MultiheadAttention(16, 2, batch_first=True), batch, ~mask)
    assert seen == [40, 23]
