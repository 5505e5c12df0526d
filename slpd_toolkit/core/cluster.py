"""Ray clusters (extra `ray`): joining one, and running functions on it."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_joined: ContextVar[Any] = ContextVar("joined", default=None)
_RETRIES = 3
_ANSWERS_WITHIN_S = 5.0
_CLIENT_PORT = 10001
_PLAIN = (str, int, float, bool, type(None))


class ProcessLostError(Exception):
    """The process of a task on a cluster ended in every attempt."""


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
        _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--cluster: got {address}, but no Ray cluster responds there ({first_line}).",
            hint="Start one with `ray start --head` on this machine, or pass ray://HOST:10001 with the address of "
            "the head node.",
        ) from error


def _require_listener(address: str) -> None:
    """Check that something listens at an address; Ray itself keeps trying for minutes.

    Raises:
        OSError: Nothing listens there, or `auto` finds no cluster.
        ValueError: The address is malformed.
    """
    named = _current_address() if address == "auto" else address
    where = urlsplit(named if "://" in named else f"//{named}")
    if where.hostname:
        socket.create_connection((where.hostname, where.port or _CLIENT_PORT), _ANSWERS_WITHIN_S).close()


def _current_address() -> str:
    """Return the address that Ray uses for `auto`: $RAY_ADDRESS, or the cluster that was last started on this machine.

    Raises:
        ConnectionError: There is none.
    """
    try:
        from ray._private.services import get_ray_address_from_environment
    except ImportError:  # another version of Ray
        return os.environ.get("RAY_ADDRESS", "")
    return str(get_ray_address_from_environment("auto", None))


def on_cluster(ray: Any, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Apply a function to each tuple of arguments, as tasks of one core; tasks whose node is lost are repeated.

    Args:
        ray: The module.
        function: A module-level function.
        calls: Tuples of arguments; as many are consumed ahead as twice the cores of the cluster. An argument that
            several calls share is sent once.

    Yields:
        The results, in the order of the calls.

    Raises:
        ProcessLostError: The process of a task ended in every attempt, or its node was lost.
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
            yield _result(ray, running.popleft())
        running.append(task.remote(*map(sent, call)))
    while running:
        yield _result(ray, running.popleft())


def _result(ray: Any, reference: Any) -> Any:
    """Return the result of a task; exceptions of the function are raised unchanged."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ProcessLostError(type(error).__name__) from error
