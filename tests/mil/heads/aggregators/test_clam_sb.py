from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slpd_toolkit.mil.heads.aggregators.clam_sb import ClamSb
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.survival import Survival

OBJECTIVE = Classification(("a", "b", "c"), np.array([2, 0, 1, 1])).objective(np.arange(4))


def smooth_svm(score: float, positive: bool) -> float:
    """Smooth top-1 SVM of two classes with scores 0 and `score`, margin 1, temperature 1 (Berrada et al. 2018)."""
    right, wrong = (score, 0.0) if positive else (0.0, score)
    return math.log(math.exp(right) + math.exp(wrong + 1)) - right


def region_loss_by_hand(head: ClamSb, bag: torch.Tensor, label: int) -> float:
    """CLAM's instance loss for mutually exclusive classes, bag by bag and region by region."""
    regions = head.embed(bag)
    mask = torch.ones(1, len(bag), dtype=torch.bool)
    attention = head.aggregate(regions[None], mask).attention[0]
    order = sorted(range(len(bag)), key=lambda index: float(attention[index]))
    sampled = min(head.sampled, len(bag) // 2)
    highest, lowest = order[len(bag) - sampled :], order[:sampled]
    scores = head.region_classifier(regions).tolist()
    per_class = []
    for index in range(head.classes):
        evidence = [(scores[region][index], index == label) for region in highest]
        if index == label:
            evidence += [(scores[region][index], False) for region in lowest]
        losses = [smooth_svm(score, positive) for score, positive in evidence]
        per_class.append(sum(losses) / len(losses))
    return sum(per_class) / head.classes


@torch.no_grad()
@pytest.mark.parametrize("sampled", [1, 3, 8])
def test_the_loss_is_clams_region_by_region(sampled: int) -> None:
    torch.manual_seed(0)
    head = ClamSb(5, 3, classes=3, hidden=6, sampled=sampled).eval()
    bags, sizes, rows = torch.randn(3, 9, 5), [9, 4, 2], torch.tensor([0, 3, 1])
    mask = torch.arange(9) < torch.tensor(sizes)[:, None]
    losses = head.training_loss(bags, mask, OBJECTIVE, rows)
    of_slides = OBJECTIVE.loss(head(bags, mask).logits, rows)
    for row, (size, label) in enumerate(zip(sizes, [2, 1, 0], strict=True)):
        expected = 0.7 * of_slides[row].item() + 0.3 * region_loss_by_hand(head, bags[row, :size], label)
        assert losses[row].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_bag_of_one_region_has_no_region_loss() -> None:
    head = ClamSb(5, 3, classes=3).eval()
    bag, mask, row = torch.randn(1, 1, 5), torch.ones(1, 1, dtype=torch.bool), torch.tensor([0])
    torch.testing.assert_close(
        head.training_loss(bag, mask, OBJECTIVE, row), 0.7 * OBJECTIVE.loss(head(bag, mask).logits, row)
    )


def test_the_region_loss_does_not_teach_the_attention() -> None:
    head = ClamSb(5, 3, classes=3)
    bags, mask = torch.randn(2, 6, 5), torch.ones(2, 6, dtype=torch.bool)
    regions = head.embed(bags)
    attention = head.aggregate(regions, mask).attention
    head.region_loss(regions.detach(), attention, mask, torch.tensor([0, 2])).sum().backward()  # type: ignore[no-untyped-call]
    assert head.region_classifier.weight.grad is not None
    assert head.attention.score.weight.grad is None


def test_without_classes_there_is_no_loss() -> None:
    survival = Survival(np.arange(4.0), np.ones(4, bool)).objective(np.arange(4))
    with pytest.raises(ValueError, match="requires class labels"):
        ClamSb(5, 4, classes=3).training_loss(
            torch.randn(1, 2, 5), torch.ones(1, 2, dtype=torch.bool), survival, torch.tensor([0])
        )
