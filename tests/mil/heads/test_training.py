from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from slpd_toolkit.core.errors import DeviceMemoryError
from slpd_toolkit.mil.heads import training
from slpd_toolkit.mil.heads.aggregators.abmil import AttentionMil
from slpd_toolkit.mil.heads.aggregators.mean_mlp import MeanPoolMlp
from slpd_toolkit.mil.heads.training import HeadTraining, batches, predict, train_head
from tests.mil.planted import make_cohort, planted_bags, task_of

COHORT = make_cohort([1] * 30, ["a", "b"] * 15)
BAGS = planted_bags(COHORT, signal=1.5)
TASK = task_of(COHORT)
TRAIN, VAL, TEST = np.arange(0, 18), np.arange(18, 24), np.arange(24, 30)
SCALER = BAGS.scaler(TRAIN)
OBJECTIVE = TASK.objective(TRAIN)


def train(head: AttentionMil | MeanPoolMlp, config: HeadTraining, *, val: np.ndarray = VAL, seed: int = 0):  # type: ignore[no-untyped-def]
    return train_head(
        head, BAGS, OBJECTIVE, train=TRAIN, val=val, scaler=SCALER, config=config, rng=np.random.default_rng(seed)
    )


def test_a_pass_serves_every_row_once_and_bags_of_like_size_together() -> None:
    sizes, rows = np.random.default_rng(0).integers(1, 200, 500), np.arange(100, 420)
    stream = batches(sizes, rows, 16, np.random.default_rng(1))
    first, second = list(itertools.islice(stream, 20)), list(itertools.islice(stream, 20))
    for one_pass in (first, second):
        assert sorted(np.concatenate(one_pass).tolist()) == rows.tolist()
        assert [len(batch) for batch in one_pass] == [16] * 20
        padded = sum(len(batch) * sizes[batch].max() for batch in one_pass)
        assert padded < 1.15 * sizes[rows].sum()  # random batches hold about 1.9 times the regions
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert {tuple(sorted(batch)) for batch in first}.isdisjoint({tuple(sorted(batch)) for batch in second})
    growth = np.diff([sizes[batch].max() for batch in first[:8]])
    assert (growth > 0).any()
    assert (growth < 0).any()
    again = itertools.islice(batches(sizes, rows, 16, np.random.default_rng(1)), 20)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in first]


def test_a_small_part_is_one_batch() -> None:
    (batch,) = itertools.islice(
        batches(np.ones(9, dtype=np.int64), np.array([2, 5, 7]), 32, np.random.default_rng(0)), 1
    )
    assert sorted(batch.tolist()) == [2, 5, 7]


def test_predictions_come_in_the_order_of_rows_as_if_each_slide_were_alone() -> None:
    torch.manual_seed(0)
    head = AttentionMil(8, 2)
    rows = np.random.default_rng(0).permutation(30).repeat(5)  # more than one batch
    logits, attention = predict(head, BAGS, rows, SCALER)
    assert not logits.requires_grad
    for position, row in enumerate(rows):
        (alone, alone_attention) = predict(head, BAGS, np.array([row]), SCALER)
        torch.testing.assert_close(logits[position], alone[0])
        torch.testing.assert_close(attention[position], alone_attention[0])
        assert len(attention[position]) == BAGS.sizes[row]


def test_three_steps_are_three_steps_of_adamw_on_the_mean_weighted_loss() -> None:
    torch.manual_seed(0)
    config = HeadTraining(steps=3, check_every=1, batch_size=18, learning_rate=0.02, weight_decay=0.1, least_gain=-9.0)
    head, oracle = MeanPoolMlp(8, 2, dropout=0), MeanPoolMlp(8, 2, dropout=0)
    oracle.load_state_dict(head.state_dict())
    checks, kept = train(head, config)
    optimiser = torch.optim.AdamW(oracle.parameters(), lr=0.02, weight_decay=0.1)
    means = [
        torch.tensor((BAGS.features[BAGS.offsets[i] : BAGS.offsets[i + 1]] - SCALER.mean) / SCALER.sd).mean(dim=0)
        for i in range(30)
    ]
    for step in range(3):
        losses = nn.functional.cross_entropy(oracle.head(torch.stack(means[:18])), torch.tensor(TASK.targets[:18]))
        optimiser.zero_grad()
        losses.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        assert checks[step].train_loss == pytest.approx(losses.item(), rel=1e-5)
        with torch.no_grad():
            val_loss = nn.functional.cross_entropy(
                oracle.head(torch.stack(means[18:24])), torch.tensor(TASK.targets[VAL])
            )
        assert checks[step].val_loss == pytest.approx(val_loss.item(), rel=1e-5)
    assert kept == 3
    for ours, theirs in zip(head.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_stops_when_validation_no_longer_improves_and_returns_to_the_best_weights() -> None:
    torch.manual_seed(0)
    config = HeadTraining(steps=400, check_every=5, patience=4, learning_rate=0.03)
    head = AttentionMil(8, 2)
    checks, kept = train(head, config)
    losses = [check.val_loss for check in checks]
    best = [check.step for check in checks].index(kept)
    assert [check.step for check in checks] == list(range(5, 5 * len(checks) + 1, 5))
    assert len(checks) == best + 1 + 4 < 80
    assert losses[best] == min(losses[: best + 1])
    assert min(losses[best + 1 :]) > losses[best] - config.least_gain
    logits, _ = predict(head, BAGS, VAL, SCALER)
    assert OBJECTIVE.loss(logits, torch.tensor(VAL)).mean().item() == pytest.approx(losses[best], rel=1e-5)


def test_an_improvement_below_the_least_gain_does_not_count() -> None:
    torch.manual_seed(0)
    checks, kept = train(AttentionMil(8, 2), HeadTraining(steps=400, check_every=5, patience=3, least_gain=10.0))
    assert kept == 5
    assert [check.step for check in checks] == [5, 10, 15, 20]


def test_the_last_step_is_looked_at_even_off_the_beat() -> None:
    checks, _ = train(AttentionMil(8, 2), HeadTraining(steps=7, check_every=5))
    assert [check.step for check in checks] == [5, 7]


def test_dropout_is_on_in_every_step_of_training() -> None:
    """Also after a validation, which disables dropout."""
    torch.manual_seed(0)
    head = AttentionMil(8, 2, dropout=0.5)
    modes = []
    head.embed[2].register_forward_hook(lambda module, *_: modes.append(module.training))
    train(head, HeadTraining(steps=3, check_every=1))
    assert modes == [True, False] * 3


def test_large_bags_are_computed_in_parts_of_like_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.array([5, 100, 4, 6, 60, 5])
    rows = np.array([5, 1, 0, 3, 2, 4])
    assert [part.tolist() for part in training.parts_of_like_size(sizes, rows)] == [rows.tolist()]
    monkeypatch.setattr(training, "_PADDED_REGIONS", 24)
    parts = training.parts_of_like_size(sizes, rows)
    assert [part.tolist() for part in parts] == [[2, 5, 0, 3], [4], [1]]


def test_parts_of_a_batch_do_not_change_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    config = HeadTraining(steps=6, batch_size=18, check_every=3)
    found = []
    for most in (1 << 14, 12):
        monkeypatch.setattr(training, "_PADDED_REGIONS", most)
        torch.manual_seed(0)
        head = MeanPoolMlp(8, 2, dropout=0.0)
        checks, _ = train(head, config)
        found.append((checks, *predict(head, BAGS, TEST, SCALER)))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    for one, other in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2 TiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_runs_out_names_the_largest_slide(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    head = AttentionMil(8, 2)
    monkeypatch.setattr(head, "forward", fail)
    largest = TRAIN[BAGS.sizes[TRAIN].argmax()]
    wanted = rf"Out of memory at slide {BAGS.slides[largest]} with {BAGS.sizes[largest]} regions: .*--head-batch 1"
    with pytest.raises(DeviceMemoryError, match=wanted):
        train(head, HeadTraining(steps=1, batch_size=18))
