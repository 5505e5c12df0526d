"""The threads that open and read slides ahead of the encoder."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MAX_WORKERS = 16
_NICER = 5  # than the encoder


def reader_threads(workers: int, device: torch.device) -> tuple[ThreadPoolExecutor, int]:
    """Start threads for reading, at lower priority where the encoder needs the CPU; also return their number.

    Args:
        workers: Number of threads; 0 takes one per core, at most 16.
        device: Where the encoder computes.
    """
    count = workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    initializer = lower_priority if device.type == "cpu" else None
    return ThreadPoolExecutor(count, thread_name_prefix="slide-reader", initializer=initializer), count


def lower_priority() -> None:
    """Let the encoder run before this thread, where both want a core.

    A CPU encoder computes in step on all cores: a reader that takes one of them keeps the others waiting too, so each
    second of reading would cost two. At lower priority it runs when the encoder has nothing to do, and then on all
    cores. Not at the lowest: beside another busy program a reader would hardly run, and the encoder would wait for it.
    """
    if sys.platform == "linux":  # elsewhere, priorities are of processes only
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)
