"""Functions that tests run in guarded processes, in a separate module that these processes import."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.guarded_process import report_progress
from slpd_toolkit.slides import reading

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.slides.plan import BlockPixels
    from slpd_toolkit.slides.reading import SlideHandle


@dataclass
class Pictures:
    """A result that contains arrays."""

    name: str
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]


def pictures(side: int) -> Pictures:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    return Pictures("of a test", pixels, pixels[..., 0] > 128)


def raises_ours() -> None:
    raise SlideError("a message", hint="a hint")


def say_and_abort() -> None:
    os.write(2, b"first\nallocation failed\n")
    os.abort()


def spin() -> None:
    while True:
        pass


def work_in_steps(count: int) -> int:
    for _ in range(count):
        started = time.process_time()
        while time.process_time() < started + 0.2:
            pass
        report_progress()
    return count


def abort_once(marker: SlideHandle) -> str:
    """Abort the process on the first call only."""
    if not Path(marker.path).exists():
        Path(marker.path).touch()
        os.abort()
    return "done"


def abort_always(_: SlideHandle, *__: object) -> None:
    os.abort()


def abort_at_s1(handle: SlideHandle, *arguments: Any) -> BlockPixels:
    """Read a block, but of the slide s1."""
    if Path(handle.path).stem == "s1":
        os.abort()
    return reading.block(handle, *arguments)


def hang_at_s1(handle: SlideHandle, *arguments: Any) -> BlockPixels:
    """Read a block, but of the slide s1."""
    if Path(handle.path).stem == "s1":
        spin()
    return reading.block(handle, *arguments)


def ask_for(_: SlideHandle, numbers: int) -> int:
    return len(np.zeros(numbers))
