"""Reader processes that read slides ahead of the encoder, and threads that call them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from slpd_toolkit.slides.guarded_slide import SlideReaders

if TYPE_CHECKING:
    import torch

MAX_WORKERS = 16
NICER = 5
"""Niceness of the readers if the encoder runs on the CPU.

An encoder on the CPU runs on all cores in lockstep: a reader that occupies one core delays all others, so that each
second of reading costs several. At lower priority, readers run on all cores whenever the encoder is idle. The lowest
priority is not used, because readers would hardly run next to another busy program, and the encoder would wait.
"""


def count_workers(workers: int) -> int:
    """Return the number of readers: `workers`, or if 0 one per core, at most 16."""
    return workers or min(os.cpu_count() or 1, MAX_WORKERS)


def make_readers(workers: int, device: torch.device) -> tuple[ThreadPoolExecutor, SlideReaders]:
    """Return threads that call readers, and the readers, at lower priority if the encoder runs on the CPU.

    Args:
        workers: See `count_workers`.
        device: Device of the encoder.
    """
    threads = ThreadPoolExecutor(count_workers(workers), thread_name_prefix="slide-reader")
    return threads, SlideReaders(NICER if device.type == "cpu" else 0)
