from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.readahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_results_come_in_order_however_long_each_takes(depth: int) -> None:
    def task(number: int) -> Callable[[], int]:
        def work() -> int:
            time.sleep(0.002 * (number % 3))
            return number * number

        return work

    with ThreadPoolExecutor(4) as pool:
        found = [(key, future.result()) for key, future in read_ahead(pool, ((n, task(n)) for n in range(20)), depth)]
    assert found == [(number, number * number) for number in range(20)]


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_no_more_than_depth_tasks_are_taken_ahead_of_the_consumer(depth: int) -> None:
    taken = []

    def tasks() -> Iterator[tuple[int, Callable[[], None]]]:
        for number in range(20):
            taken.append(number)
            yield number, lambda: None

    with ThreadPoolExecutor(2) as pool:
        for received, (key, _) in enumerate(read_ahead(pool, tasks(), depth)):
            assert key == received
            assert len(taken) == min(20, received + 1 + depth)


def test_a_task_that_fails_does_so_at_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = dict(read_ahead(pool, [(0, lambda: 1), (1, lambda: 1 // 0), (2, lambda: 3)], 2))
    assert futures[0].result() == 1
    assert isinstance(futures[1].exception(), ZeroDivisionError)
    assert futures[2].result() == 3


def test_work_goes_on_while_the_consumer_is_busy() -> None:
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        stream = read_ahead(pool, [(0, lambda: None), (1, begun.set), (2, lambda: None)], 1)
        next(stream)
        assert begun.wait(10)
