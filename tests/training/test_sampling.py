from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.sampling import Schedule, Stream, generator, read_batches

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@given(regions=st.integers(1, 60), batch=st.integers(1, 8), world=st.integers(1, 4), seed=st.integers(0, 9))
def test_an_epoch_sees_each_region_at_most_once_whatever_the_processes(
    regions: int, batch: int, world: int, seed: int
) -> None:
    if batch * world > regions:
        with pytest.raises(UsageError, match=f"{batch} x {world} processes is more than the {regions} regions"):
            Schedule(regions, batch, 0, world, seed)
        return
    ranks = [Schedule(regions, batch, rank, world, seed) for rank in range(world)]
    whole = Schedule(regions, batch * world, 0, 1, seed)
    steps = ranks[0].steps_per_epoch
    assert steps == whole.steps_per_epoch == regions // (batch * world)
    for epoch in range(2):
        seen = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            parts = [schedule.batch(step) for schedule in ranks]
            assert [len(part) for part in parts] == [batch] * world
            np.testing.assert_array_equal(np.concatenate(parts), whole.batch(step))
            for schedule, part in zip(ranks, parts, strict=True):
                np.testing.assert_array_equal(whole.batch(step)[schedule.part], part)
            seen += np.concatenate(parts).tolist()
            assert whole.epoch_of(step) == epoch
        assert len(set(seen)) == len(seen) == steps * batch * world
        assert set(seen) <= set(range(regions))


def test_orders_differ_between_epochs_and_seeds_and_leave_out_another_rest() -> None:
    orders = {
        (seed, epoch): tuple(
            np.concatenate([Schedule(31, 5, 0, 1, seed).batch(6 * epoch + i) for i in range(6)]).tolist()
        )
        for seed in range(2)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 6
    assert len({frozenset(order) for order in orders.values()}) > 1


def test_streams_are_functions_of_all_their_counters() -> None:
    def draw(*counters: int, seed: int = 0, stream: Stream = Stream.VIEWS) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=generator(seed, stream, *counters)).tolist())

    draws = [draw(1), draw(2), draw(1, 1), draw(1, 2), draw(1, seed=1), draw(1, stream=Stream.DEPTH)]
    assert len(set(draws)) == len(draws)
    assert draw(1, 1) == draw(1, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_with_the_tokens_of_their_regions(cache: Path, workers: int) -> None:
    tokens = CohortTokens(TokenStore.open(cache))
    schedule = Schedule(len(tokens), 4, 0, 1, 0)
    found = list(read_batches(tokens, schedule, range(3, 20), workers=workers, pin_memory=False))
    assert [step for step, _, _ in found] == list(range(3, 20))
    for step, regions, grids in found:
        assert regions.tolist() == schedule.batch(step).tolist()
        assert torch.equal(grids, tokens.read(regions.numpy()))
    tokens.close()
