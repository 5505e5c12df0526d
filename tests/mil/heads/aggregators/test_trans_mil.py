from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from slpd_toolkit.mil.heads.aggregators.trans_mil import TransMil
from tests.mil.by_hand import self_attention


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 4, 7, 9, 12])
def test_it_is_the_papers_algorithm_on_one_bag(size: int) -> None:
    """Algorithm 2 of the paper: square the sequence, class token, attention, PPEG, attention, class token."""
    torch.manual_seed(0)
    head: Any = TransMil(5, 3, hidden=16).eval()
    bag = torch.randn(size, 5)
    side = math.ceil(math.sqrt(size))
    regions = head.embed(bag)
    tokens = torch.cat([head.class_token[0], regions, regions[: side * side - size]])
    tokens = tokens + self_attention(head.layers[0], head.norms[0](tokens))
    image = tokens[1:].T.reshape(1, 16, side, side)
    image = image + sum(convolution(image) for convolution in head.positions.convolutions)
    tokens = torch.cat([tokens[:1], image.reshape(16, -1).T])
    tokens = tokens + self_attention(head.layers[1], head.norms[1](tokens))
    expected = head.classifier(head.norms[2](tokens)[0])
    assert [convolution.kernel_size for convolution in head.positions.convolutions] == [(7, 7), (5, 5), (3, 3)]
    logits = head(bag[None], torch.ones(1, size, dtype=torch.bool)).logits
    torch.testing.assert_close(logits[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_regions_that_fill_up_the_square_get_the_attention_of_both_places() -> None:
    torch.manual_seed(0)
    head: Any = TransMil(5, 3, hidden=16).eval()
    for convolution in head.positions.convolutions:
        convolution.weight.zero_()
    bag = torch.randn(3, 5)  # filled up to four with its first region
    attention = head(bag[None], torch.ones(1, 3, dtype=torch.bool)).attention[0]
    four = head(torch.cat([bag, bag[:1]])[None], torch.ones(1, 4, dtype=torch.bool)).attention[0]
    torch.testing.assert_close(attention, torch.stack([four[0] + four[3], four[1], four[2]]))
