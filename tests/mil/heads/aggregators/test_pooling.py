from __future__ import annotations

from typing import Any

import torch

from slpd_toolkit.mil.heads.aggregators.abmil import AttentionMil
from slpd_toolkit.mil.heads.aggregators.mean_mlp import MeanPoolMlp


@torch.no_grad()
def test_gated_attention_is_the_papers_equation_region_by_region() -> None:
    torch.manual_seed(0)
    head: Any = AttentionMil(4, 3, hidden=6).eval()
    bag = torch.randn(5, 4)
    embedded = [torch.relu(head.embed[0].weight @ region + head.embed[0].bias) for region in bag]
    v, u, w = head.attention.content[0], head.attention.gate[0], head.attention.score
    scores = [
        w.weight @ (torch.tanh(v.weight @ h + v.bias) * torch.sigmoid(u.weight @ h + u.bias)) + w.bias for h in embedded
    ]
    shares = torch.softmax(torch.cat(scores), dim=0)
    slide = sum(share * h for share, h in zip(shares, embedded, strict=True))
    logits, attention = head(bag[None], torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(attention[0], shares)
    torch.testing.assert_close(logits[0], head.classifier(slide))


@torch.no_grad()
def test_mean_pooling_is_the_head_of_the_mean() -> None:
    torch.manual_seed(0)
    head, bag = MeanPoolMlp(4, 2).eval(), torch.randn(5, 4)
    logits, attention = head(bag[None], torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(logits[0], head.head(bag.mean(dim=0)))
    torch.testing.assert_close(attention[0], torch.full((5,), 0.2))


def test_dropout_is_active_in_training_only() -> None:
    torch.manual_seed(0)
    head, bag, mask = AttentionMil(4, 2), torch.randn(1, 5, 4), torch.ones(1, 5, dtype=torch.bool)
    assert not torch.equal(head(bag, mask).logits, head(bag, mask).logits)
    head.eval()
    assert torch.equal(head(bag, mask).logits, head(bag, mask).logits)
