"""Doing work ahead of the one who needs it, in order and within bounds."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

    T = TypeVar("T")
    K = TypeVar("K")


def read_ahead(pool: Executor, tasks: Iterable[tuple[K, Callable[[], T]]], depth: int) -> Iterator[tuple[K, Future[T]]]:
    """Run tasks in a pool, at most `depth` ahead of the consumer, and give their futures in order.

    Args:
        pool: Where the tasks run.
        tasks: Each with a key that comes back beside its future; taken one by one, as there is room.
        depth: How many results may wait or be in the making.
    """
    pending: deque[tuple[K, Future[T]]] = deque()
    for key, task in tasks:
        pending.append((key, pool.submit(task)))
        if len(pending) > depth:
            yield pending.popleft()
    while pending:
        yield pending.popleft()
