"""An open slide file: its header, and rectangles of its levels as RGB on white. Only this module imports openslide."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
import openslide

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import special_kind
from slpd_toolkit.core.guarded_process import report_progress
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

    RGB = npt.NDArray[np.uint8]

DAMAGED = "The file may be truncated or damaged: copy it again, or open it in a viewer."
_ANISOTROPY = 0.01
_NOMINAL_TOLERANCE = 0.01
_TILE_CACHE_BYTES = 32 << 20  # per slide and process: twice the tiles of a block
_BOUNDS = (
    openslide.PROPERTY_NAME_BOUNDS_X,
    openslide.PROPERTY_NAME_BOUNDS_Y,
    openslide.PROPERTY_NAME_BOUNDS_WIDTH,
    openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
)


@dataclass(frozen=True)
class SlideHeader:
    """What a slide says about itself."""

    path: Path
    width_l0: int
    height_l0: int
    mpp_l0: float
    downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level."""
    bounds_corner_l0: tuple[int, int] = (0, 0)
    """Top-left corner (x, y) of OpenSlide's bounds, level-0 px; (0, 0) where the file has none."""
    vendor: str = ""
    """The format, as OpenSlide names it."""
    tiles_px: tuple[int, ...] = ()
    """Side of the tiles of each level, or 0 where there is none."""

    def best_level(self, scale: float) -> int:
        """Return the coarsest level that is still at least as fine as `scale` level-0 pixels per output pixel."""
        fine_enough = [level for level, downsample in enumerate(self.downsamples) if downsample <= scale * (1 + 1e-3)]
        return max(fine_enough, key=lambda level: self.downsamples[level], default=0)


class OpenedSlide:
    """An open slide file. May be read from several threads at once; close it, or use it as a context manager.

    Closing waits for reads that other threads have begun, because OpenSlide would free the memory they read into.

    Args:
        path: Any file that OpenSlide reads.
        mpp_l0: Micrometres per level-0 pixel; None takes the file's.

    Raises:
        SlideError: The file cannot be opened, or its resolution is missing, implausible or different in x and y.
    """

    def __init__(self, path: Path, mpp_l0: float | None = None) -> None:
        self.path = path
        self._reading, self._closed, self._idle = 0, False, threading.Condition()
        _require_readable(path)
        try:
            self._file = openslide.OpenSlide(path)
            self._file.set_cache(openslide.OpenSlideCache(_TILE_CACHE_BYTES))
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideError(
                f"{path} is not a slide that OpenSlide reads.",
                hint="It may be truncated: compare its size with the source's. Plain images: convert to a tiled TIFF.",
            ) from error
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f"{path} cannot be opened ({error}).", hint=DAMAGED) from error
        try:
            self.sizes_lv, self._exact_downsamples = self._file.level_dimensions, self._file.level_downsamples
            downsamples = tuple(_nominal(downsample) for downsample in self._exact_downsamples)
            mpp = _mpp_l0(path, self._file.properties, mpp_l0)
            self.header = _header(path, self._file, mpp, downsamples)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; reads that begin later raise a SlideError."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._reading == 0)
            self._file.close()

    def _read_level(
        self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int
    ) -> tuple[RGB, npt.NDArray[np.bool_] | None]:
        """Read a rectangle of a level, white where it leaves the slide, and which pixels the file does not have."""
        level_width, level_height = self.sizes_lv[level]
        left, right = max(left_lv, 0), min(left_lv + width_lv, level_width)
        top, bottom = max(top_lv, 0), min(top_lv + height_lv, level_height)
        if (right - left, bottom - top) == (width_lv, height_lv):
            return self._decode(level, left, top, width_lv, height_lv)
        white = np.full((height_lv, width_lv, 3), 255, np.uint8)
        if left >= right or top >= bottom:
            return white, None
        # Cut to the slide here, because OpenSlide truncates negative locations to whole pixels of the level.
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
        # OpenSlide divides the location by its own downsample, which the rounding of level sizes makes 4.0004, not 4.
        # What is left of a whole pixel (an eighth at most, on a level of 4) it interpolates.
        exact = self._exact_downsamples[level]
        location_l0 = (round(left_lv * exact), round(top_lv * exact))
        report_progress()
        try:
            with self._held_open():
                rgba = np.asarray(self._file.read_region(location_l0, level, (width_lv, height_lv)))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{self.path}: pixels at level-0 {location_l0} cannot be decoded ({error}).", hint=DAMAGED
            ) from error
        return _on_white(rgba)

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


def _require_readable(path: Path) -> None:
    """Check that a path is a file and may be read; opening a FIFO or a device would wait for ever.

    Raises:
        SlideError: It is not.
    """
    try:
        kind = special_kind(path)
        if kind:
            raise SlideError(f"{path} is {kind}, not a slide file.", hint="Give the slide's file.")
        path.open("rb").close()  # OpenSlide would say that it does not support what it may not read
    except OSError as error:
        raise SlideError(
            f"{path} cannot be opened ({error.strerror}).", hint="Check the path and its permissions."
        ) from error


def _on_white(rgba: npt.NDArray[np.uint8]) -> tuple[RGB, npt.NDArray[np.bool_] | None]:
    """Lay pixels on white; also return which are transparent, None where none is."""
    alpha = rgba[..., 3:]
    rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    gaps = None
    if alpha.min() < 255:
        gaps = np.asarray(alpha[..., 0] == 0)
        opacity = alpha.astype(np.uint16)
        blended = (rgb * opacity + 255 * (255 - opacity) + 127) // 255
        rgb = blended.astype(np.uint8)
    return rgb, gaps if gaps is not None and gaps.any() else None


def _header(path: Path, file: openslide.OpenSlide, mpp_l0: float, downsamples: tuple[float, ...]) -> SlideHeader:
    properties = file.properties
    tiles = [
        max(int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("width", "height"))
        for level in range(file.level_count)
    ]
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "")
    corner_l0 = _bounds_corner_l0(properties)
    return SlideHeader(path, *file.dimensions, mpp_l0, downsamples, corner_l0, vendor, tuple(tiles))


def _nominal(downsample: float) -> float:
    """Undo the rounding of level sizes: 4.0004 is a level that was made by averaging 4 x 4 pixels."""
    whole = round(downsample)
    return float(whole) if abs(downsample / whole - 1) < _NOMINAL_TOLERANCE else downsample


def _bounds_corner_l0(properties: Mapping[str, str]) -> tuple[int, int]:
    """Top-left corner (x, y) of the scanned area, level-0 px; (0, 0) unless all four bounds are whole numbers."""
    try:
        x_l0, y_l0, _, _ = (int(properties[name]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return 0, 0
    return x_l0, y_l0


def _mpp_l0(path: Path, properties: Mapping[str, str], given: float | None) -> float:
    """Return the resolution: `given`, else the file's.

    Raises:
        SlideError: It is missing or implausible, or the file says that pixels are not square, whatever is given.
    """
    fix = "Give the resolution of level 0 in the manifest's column `mpp`."
    raw = [properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
    try:
        mpp_x, mpp_y = (float(value) for value in raw if value is not None)
    except ValueError as error:
        if given is not None:
            return given
        raise SlideError(f"{path} does not say its resolution (mpp-x, mpp-y: {raw[0]}, {raw[1]}).", hint=fix) from error
    if 0 < mpp_x < math.inf and 0 < mpp_y < math.inf and abs(mpp_x / mpp_y - 1) > _ANISOTROPY:
        raise SlideError(
            f"{path} has pixels of {mpp_x:.6g} x {mpp_y:.6g} um; they must be square within {_ANISOTROPY:.0%}.",
            hint="Resample the slide so that they are (for example with `vips resize --vscale`). A resolution in the "
            "manifest cannot mend this: it is one number for both.",
        )
    if given is not None:
        return given
    low, high = MPP_RANGE
    if not (is_plausible_mpp(mpp_x) and is_plausible_mpp(mpp_y)):
        raise SlideError(f"{path} says {mpp_x:.6g} x {mpp_y:.6g} um/px; plausible is {low} to {high}.", hint=fix)
    return (mpp_x + mpp_y) / 2
