from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slpd_toolkit.mil.heads.aggregators.ds_mil import DsMil
from slpd_toolkit.mil.tasks.kinds.classification import Classification


@pytest.mark.slow
@torch.no_grad()
def test_both_streams_are_the_papers_region_by_region() -> None:
    torch.manual_seed(0)
    head, bag = DsMil(4, 3, hidden=5).eval(), torch.randn(6, 4)
    scores, queries, values = head.region_classifier(bag), head.query(bag), head.value(bag)
    representation, shares = [], []
    for logit in range(3):
        critical = max(range(6), key=lambda region: float(scores[region, logit]))
        likeness = torch.stack([queries[region] @ queries[critical] for region in range(6)]) / math.sqrt(5)
        shares.append(torch.softmax(likeness, dim=0))
        representation.append(sum(share * value for share, value in zip(shares[-1], values, strict=True)))
    of_bag = head.bag_classifier(torch.cat(representation))
    of_regions = torch.stack([scores[:, logit].max() for logit in range(3)])
    mask = torch.ones(1, 6, dtype=torch.bool)
    logits, attention = head(bag[None], mask)
    torch.testing.assert_close(logits[0], (of_bag + of_regions) / 2)
    torch.testing.assert_close(attention[0], torch.stack(shares).mean(dim=0))
    objective = Classification(("a", "b", "c"), np.arange(3)).objective(np.arange(3))
    row = torch.tensor([1])
    expected = (objective.loss(of_bag[None], row) + objective.loss(of_regions[None], row)) / 2
    torch.testing.assert_close(head.training_loss(bag[None], mask, objective, row), expected)
