"""Ray clusters (extra `ray`): joining one, and running functions on it."""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_joined: ContextVar[Any] = ContextVar("joined", default=None)
_RETRIES = 3
_PLAIN = (str, int, float, bool, type(None))


def joined() -> Any:
    """Return the module `ray` inside `joined_cluster`, otherwise None."""
    return _joined.get()


def import_ray() -> Any:
    """Import Ray.

    Raises:
        UsageError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its usage to a server otherwise
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without GPUs keep the visible devices
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--cluster needs Ray, which is not installed.", hint="pip install 'slpd-toolkit[ray]'"
        ) from error
    return ray


@contextmanager
def joined_cluster(address: str) -> Iterator[Any]:
    """Connect to a Ray cluster for the duration of the block.

    Args:
        address: `auto`: the cluster that this machine belongs to; `ray://HOST:PORT`: one that it does not.

    Yields:
        The module `ray`; None if no address was given.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    if not address:
        yield None
        return
    ray = import_ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    token = _joined.set(ray)
    try:
        yield ray
    finally:
        _joined.reset(token)
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--cluster: got {address}, but no Ray cluster responds there ({first_line}).",
            hint="Start one with `ray start --head` on this machine, or pass ray://HOST:10001 with the address of "
            "the head node.",
        ) from error


def on_cluster(ray: Any, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Apply a function to each tuple of arguments, as tasks of one core; tasks whose node is lost are repeated.

    Args:
        ray: The module.
        function: A module-level function.
        calls: Tuples of arguments; as many are consumed ahead as twice the cores of the cluster. An argument that
            several calls share is sent once.

    Yields:
        The results, in the order of the calls.
    """
    task = ray.remote(function).options(num_cpus=1, max_retries=_RETRIES)
    shared: dict[int, tuple[Any, Any]] = {}
    running: deque[Any] = deque()

    def sent(argument: Any) -> Any:
        if isinstance(argument, _PLAIN):
            return argument
        if id(argument) not in shared:
            shared[id(argument)] = (ray.put(argument), argument)  # kept, so that the id stays its own
        return shared[id(argument)][0]

    most = max(1, 2 * int(ray.cluster_resources().get("CPU", 1)))
    for call in calls:
        if len(running) == most:
            yield ray.get(running.popleft())
        running.append(task.remote(*map(sent, call)))
    while running:
        yield ray.get(running.popleft())
