"""Who reads slides ahead of the encoder: processes, each asked by a thread."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from slpd_toolkit.slides.guarded_slide import SlideReaders

if TYPE_CHECKING:
    import torch

_MAX_WORKERS = 16
NICER = 5
"""Niceness of the readers, where the encoder computes on the CPU.

A CPU encoder computes in step on all cores: a reader that takes one of them keeps the others waiting too, so each
second of reading would cost two. At lower priority it runs when the encoder has nothing to do, and then on all cores.
Not at the lowest: beside another busy program a reader would hardly run, and the encoder would wait for it.
"""


def count_workers(workers: int) -> int:
    """Return the number of readers: as given, or with 0 one per core, at most 16."""
    return workers or min(os.cpu_count() or 1, _MAX_WORKERS)


def make_readers(workers: int, device: torch.device) -> tuple[ThreadPoolExecutor, SlideReaders]:
    """Return threads that ask, and readers that answer, at lower priority where the encoder needs the CPU.

    Args:
        workers: See `count_workers`.
        device: Where the encoder computes.
    """
    threads = ThreadPoolExecutor(count_workers(workers), thread_name_prefix="slide-reader")
    return threads, SlideReaders(NICER if device.type == "cpu" else 0)
