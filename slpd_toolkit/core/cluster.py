"""Ray clusters (extra `ray`), imported here and in `ingest.embedding.cluster` only."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        The module `ray`.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--cluster: got {address}, but no Ray cluster answers there ({first_line}).",
            hint="Start one with `ray start --head` on this machine, or give ray://HOST:10001 of its head node.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
