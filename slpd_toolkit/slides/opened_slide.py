"""An open slide from any source: its header, and rectangles of its levels as RGB on white."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.guarded_process import report_progress
from slpd_toolkit.slides.resolution import choose_mpp, doubt_of_resolution
from slpd_toolkit.slides.source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.source import RGB

_NOMINAL_TOLERANCE = 0.01


@dataclass(frozen=True)
class SlideHeader:
    """Header of a slide."""

    path: Location
    width_l0: int
    height_l0: int
    mpp_l0: float
    downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level."""
    bounds_corner_l0: tuple[int, int] = (0, 0)
    """Top-left corner (x, y) of the scanned area, level-0 px; (0, 0) if the file has none."""
    vendor: str = ""
    """Format: the vendor as in OpenSlide, `picture` or `ome-tiff`."""
    tiles_px: tuple[int, ...] = ()
    """Side of the tiles of each level; 0 if there are none."""
    doubt: str = ""
    """What else the file or the manifest states about the resolution, if it does not agree."""

    def best_level(self, scale: float) -> int:
        """Return the coarsest level that is still at least as fine as `scale` level-0 pixels per output pixel."""
        fine_enough = [level for level, downsample in enumerate(self.downsamples) if downsample <= scale * (1 + 1e-3)]
        return max(fine_enough, key=lambda level: self.downsamples[level], default=0)


class OpenedSlide(ClosedOnExit):
    """An open slide. Thread-safe; close it, or use it as a context manager.

    Closing waits for running reads of other threads, because OpenSlide would free the memory that they use.

    Args:
        path: Any file that a source of `slides.sources` reads, or a URL.
        mpp_l0: Micrometers per level-0 pixel; None: the value in the file.

    Raises:
        SlideError: The file cannot be opened, or its resolution is missing, implausible or different in x and y.
    """

    def __init__(self, path: Location, mpp_l0: float | None = None) -> None:
        self.path = path
        self._reading, self._closed, self._idle = 0, False, threading.Condition()
        self._source = open_source(path)
        try:
            info = self._source.info
            self.sizes_lv = info.sizes_lv
            self.header = SlideHeader(
                path,
                *info.sizes_lv[0],
                choose_mpp(path, info, mpp_l0),
                tuple(_nominal(downsample) for downsample in info.downsamples),
                info.bounds_corner_l0,
                info.vendor,
                info.tiles_px,
                doubt_of_resolution(info, mpp_l0),
            )
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        """Close the file; later reads raise a SlideError."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._reading == 0)
            self._source.close()

    def _read_level(
        self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int
    ) -> tuple[RGB, npt.NDArray[np.bool_] | None]:
        """Read a rectangle of a level, white outside the slide; also return which pixels are missing from the file."""
        level_width, level_height = self.sizes_lv[level]
        left, right = max(left_lv, 0), min(left_lv + width_lv, level_width)
        top, bottom = max(top_lv, 0), min(top_lv + height_lv, level_height)
        if (right - left, bottom - top) == (width_lv, height_lv):
            return self._decode(level, left, top, width_lv, height_lv)
        white = np.full((height_lv, width_lv, 3), 255, np.uint8)
        if left >= right or top >= bottom:
            return white, None
        # Crop to the slide here, because OpenSlide truncates negative locations to whole pixels of the level.
        part = slice(top - top_lv, bottom - top_lv), slice(left - left_lv, right - left_lv)
        white[part], gaps_inside = self._decode(level, left, top, right - left, bottom - top)
        if gaps_inside is None:
            return white, None
        gaps = np.zeros((height_lv, width_lv), np.bool_)
        gaps[part] = gaps_inside
        return white, gaps

    def _decode(
        self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int
    ) -> tuple[RGB, npt.NDArray[np.bool_] | None]:
        report_progress()
        with self._held_open():
            return self._source.read_box(level, left_lv, top_lv, width_lv, height_lv)

    @contextmanager
    def _held_open(self) -> Iterator[None]:
        with self._idle:
            if self._closed:
                raise SlideError(f"{self.path} is closed.")
            self._reading += 1
        try:
            yield
        finally:
            with self._idle:
                self._reading -= 1
                self._idle.notify_all()


def _nominal(downsample: float) -> float:
    """Undo the rounding of level sizes: a downsample of 4.0004 is an average over 4 x 4 pixels."""
    whole = round(downsample)
    return float(whole) if abs(downsample / whole - 1) < _NOMINAL_TOLERANCE else downsample
