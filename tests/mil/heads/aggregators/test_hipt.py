from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from slpd_toolkit.mil.heads.aggregators.hipt import SlideTransformer
from tests.mil.by_hand import self_attention


@torch.no_grad()
def test_it_is_hipts_third_stage_written_out() -> None:
    torch.manual_seed(0)
    head: Any = SlideTransformer(7, 3).eval()
    bag = torch.randn(5, 7)
    tokens = torch.relu(F.linear(bag, head.embed[0].weight, head.embed[0].bias))
    for block in head.blocks.layers:
        assert (block.self_attn.num_heads, block.linear1.out_features) == (3, 192)
        tokens = block.norm1(tokens + self_attention(block.self_attn, tokens))
        tokens = block.norm2(tokens + block.linear2(torch.relu(block.linear1(tokens))))
    gates = torch.tanh(head.attention.content[0](tokens)) * torch.sigmoid(head.attention.gate[0](tokens))
    shares = torch.softmax(head.attention.score(gates).squeeze(1), dim=0)
    expected = head.head[3](torch.relu(head.head[0](shares @ tokens)))
    logits, attention = head(bag[None], torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(logits[0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attention[0], shares, atol=1e-6, rtol=1e-4)
    assert len(head.blocks.layers) == 2
