"""Bounded, ordered prefetching."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

    T = TypeVar("T")
    K = TypeVar("K")


def read_ahead(pool: Executor, tasks: Iterable[tuple[K, Callable[[], T]]], depth: int) -> Iterator[tuple[K, Future[T]]]:
    """Run tasks in a pool, at most `depth` ahead of the consumer, and yield their futures in order.

    Args:
        pool: Executor of the tasks.
        tasks: Pairs of a key, which is yielded with the future, and a function; consumed lazily.
        depth: Maximum number of tasks that are running or whose results are waiting.
    """
    pending: deque[tuple[K, Future[T]]] = deque()
    for key, task in tasks:
        pending.append((key, pool.submit(task)))
        if len(pending) > depth:
            yield pending.popleft()
    while pending:
        yield pending.popleft()
