"""Properties that hold for every aggregator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slpd_toolkit.config.mil_eval import AGGREGATORS
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.heads.bag_network import BagNetwork
from slpd_toolkit.mil.heads.head import load_head
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.regression import Regression
from slpd_toolkit.mil.tasks.kinds.survival import Survival

if TYPE_CHECKING:
    from slpd_toolkit.mil.heads.aggregator import Aggregator
    from slpd_toolkit.mil.tasks.task import Task

WIDTH = 6
TASKS: dict[str, Task] = {
    "classes": Classification(("a", "b", "c"), np.arange(9) % 3),
    "grades": Ordinal(("1", "2", "3"), np.arange(9) % 3),
    "survival": Survival(np.arange(9.0), np.ones(9, bool)),
    "numbers": Regression(np.arange(9.0)),
}
HEADS = [name for name in AGGREGATORS.names() if isinstance(load_head(name), BagNetwork)]
heads = pytest.mark.parametrize("name", HEADS)
sizes = st.lists(st.integers(1, 11), min_size=1, max_size=6)


def make_head(name: str, task: str = "classes") -> Aggregator:
    torch.manual_seed(1)
    head = load_head(name)
    assert isinstance(head, BagNetwork)
    return head.aggregator.for_objective(WIDTH, TASKS[task].objective(np.arange(9))).eval()


def padded(bags: list[torch.Tensor], *, junk: float = 0.0, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(bag) for bag in bags) + extra
    batch, mask = torch.full((len(bags), longest, WIDTH), junk), torch.zeros(len(bags), longest, dtype=torch.bool)
    for row, bag in enumerate(bags):
        batch[row, : len(bag)], mask[row, : len(bag)] = bag, True
    return batch, mask


def random_bags(sizes: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, WIDTH, generator=generator) for size in sizes]


@pytest.mark.slow
@heads
@settings(max_examples=10, deadline=None)
@given(sizes=sizes, extra=st.integers(0, 5), junk=st.sampled_from([0.0, 50.0, -3.0]))
@torch.no_grad()
def test_a_padded_bag_gives_what_the_unpadded_bag_gives(name: str, sizes: list[int], extra: int, junk: float) -> None:
    head, bags = make_head(name), random_bags(sizes)
    logits, attention = head(*padded(bags, junk=junk, extra=extra))
    for row, bag in enumerate(bags):
        alone_logits, alone_attention = head(*padded([bag]))
        torch.testing.assert_close(logits[row], alone_logits[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(attention[row, : len(bag)], alone_attention[0], atol=2e-5, rtol=1e-4)
        assert not attention[row, len(bag) :].any()
        assert attention[row].sum().item() == pytest.approx(1, abs=1e-5)
        assert (attention[row] >= 0).all()


@heads
@torch.no_grad()
def test_the_loss_of_a_bag_ignores_its_padding_and_its_batch(name: str) -> None:
    head, bags = make_head(name), random_bags([7, 2, 1, 11])
    objective, rows = TASKS["classes"].objective(np.arange(9)), torch.tensor([4, 0, 2, 8])
    together = head.training_loss(*padded(bags, junk=9.0, extra=2), objective, rows)
    alone = torch.cat(
        [head.training_loss(*padded([bag]), objective, row[None]) for bag, row in zip(bags, rows, strict=True)]
    )
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "trans-mil"])
@torch.no_grad()
def test_the_order_of_regions_does_not_matter(name: str) -> None:
    head, (bag,) = make_head(name), random_bags([9])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    logits, attention = head(*padded([bag]))
    shuffled_logits, shuffled_attention = head(*padded([bag[order]]))
    torch.testing.assert_close(shuffled_logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shuffled_attention[0], attention[0, order], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_in_trans_mil_the_order_matters_as_its_paper_has_it() -> None:
    head, (bag,) = make_head("trans-mil"), random_bags([9])
    assert (head(*padded([bag])).logits - head(*padded([bag.flip(0)])).logits).abs().max() > 1e-3


@heads
@torch.no_grad()
def test_every_region_has_a_say(name: str) -> None:
    head, (bag,) = make_head(name), random_bags([5])
    logits = head(*padded([bag])).logits
    for region in range(5):
        changed = bag.clone()
        changed[region] += 3
        assert (head(*padded([changed])).logits - logits).abs().max() > 1e-4


@heads
@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_learns(name: str, task: str) -> None:
    if name == "clam-sb" and task in {"survival", "numbers"}:
        with pytest.raises(UsageError, match="this target has no classes"):
            make_head(name, task)
        return
    head = make_head(name, task)
    objective = TASKS[task].objective(np.arange(9))
    batch, mask = padded(random_bags([6, 9, 8]))
    assert head(batch, mask).logits.shape == (3, objective.outputs)
    head.training_loss(batch, mask, objective, torch.arange(3)).mean().backward()  # type: ignore[no-untyped-call]
    still = [key for key, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A softmax over regions is blind to a shift of all scores.
    assert [key for key in still if not key.endswith("score.bias")] == []
