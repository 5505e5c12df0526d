"""Reading of slides at any resolution: any square of level 0, as RGB on white.

The best pyramid level is read and averaged over exact pixel areas. Magnification labels are never used, because
scanners with 0.35 um/px are labeled 20x as well as 40x.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import is_url
from slpd_toolkit.slides import tiff_tiles
from slpd_toolkit.slides.opened_slide import OpenedSlide
from slpd_toolkit.slides.source import DAMAGED

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.core.files import Location

    RGB = npt.NDArray[np.uint8]

_HALF = 0.5
_JUDGED_AFTER_S, _LONGEST_S = 10.0, 1800.0
_BLANK_WITHIN = 12
_THUMBNAIL_TOLERANCE = 0.25
_BICUBIC_SUPPORT_LV = 2
_THUMBNAIL_BLOCK_LV = 2048


@dataclass(frozen=True)
class Thumbnail:
    """A whole slide at low resolution: `rgb` is (H, W, 3) uint8, one pixel spans `step_l0` level-0 pixels, `mpp` um."""

    rgb: RGB
    step_l0: int
    mpp: float
    absent: npt.NDArray[np.bool_] | None = None
    """(H, W) bool, pixels that are missing from the file; None if it has all."""


class Effort:
    """Aborts thumbnails that would take too long, by extrapolation from the completed part.

    Args:
        path: The slide.
        pixels: Number of pixels of the whole thumbnail.
    """

    def __init__(self, path: Location, pixels: int) -> None:
        self._path, self._pixels, self._done, self._started = path, pixels, 0, time.process_time()

    def done(self, pixels: int) -> None:
        """Count completed pixels.

        Raises:
            SlideError: The thumbnail would take more than half an hour of CPU time.
        """
        self._done += pixels
        spent_s = time.process_time() - self._started
        expected_s = spent_s * self._pixels / self._done
        if spent_s > _JUDGED_AFTER_S and expected_s > _LONGEST_S:
            raise SlideError(
                f"{self._path}: tissue detection would take about {expected_s / 60:.0f} minutes, allowed: "
                f"{_LONGEST_S / 60:.0f}.",
                hint="Its header may be damaged; if not, add a pyramid (for example with `vips tiffsave --pyramid`).",
            )


class Slide(OpenedSlide):
    """A whole-slide image, read at any resolution: see `OpenedSlide` for its arguments."""

    def check(self) -> None:
        """Check the tile tables of a TIFF file: see `slides.tiff_tiles`.

        Raises:
            SlideError: They are damaged, or non-blank tiles share their data.
        """
        header = self.header
        if header.vendor not in tiff_tiles.STRICT_VENDORS or is_url(self.path):
            return
        tables = tiff_tiles.read_tile_tables(Path(self.path), header.vendor, self.sizes_lv)
        for level, row, column in tiff_tiles.shared_tiles(tables):
            table = tables[level]
            left, top = column * table.width_px, row * table.height_px
            width, height = (
                min(side, of - at)
                for side, of, at in zip(
                    (table.width_px, table.height_px), self.sizes_lv[level], (left, top), strict=True
                )
            )
            rgb, _ = self._decode(level, left, top, width, height)
            if np.ptp(rgb.reshape(-1, 3), axis=0).max() > _BLANK_WITHIN:
                raise SlideError(
                    f"{self.path}: the tile in row {row}, column {column} of level {level} shares its data with others "
                    "and is not blank: the tile offsets are wrong.",
                    hint=DAMAGED,
                )

    def read(self, x_l0: int, y_l0: int, side_l0: int, side_px: int) -> RGB:
        """Read a square of level 0 as an image of another size.

        Downsampling averages over exact pixel areas, so that neighboring squares join without a seam; upsampling is
        bicubic and uses pixels beyond the border of the square for the same reason. Pixels outside the slide, and
        transparent ones, are white.

        Args:
            x_l0: Left border, level-0 px. The square may be partly or completely outside the slide.
            y_l0: Top border, level-0 px.
            side_l0: Side of the square, level-0 px. It is rounded to whole pixels of the level read, so multiples of
                the downsample are read exactly.
            side_px: Side of the result.

        Returns:
            (side_px, side_px, 3) uint8.

        Raises:
            SlideError: The pixels cannot be decoded.
        """
        return self.read_with_gaps(x_l0, y_l0, side_l0, side_px)[0]

    def read_with_gaps(
        self, x_l0: int, y_l0: int, side_l0: int, side_px: int
    ) -> tuple[RGB, npt.NDArray[np.bool_] | None]:
        """Read a square like `read`, and find the pixels that are missing from the file.

        Returns:
            (side_px, side_px, 3) uint8; and (S, S) bool, pixels of the level read that are inside the slide and
            missing, or None if there are none.

        Raises:
            SlideError: The pixels cannot be decoded.
        """
        level = self.header.best_level(side_l0 / side_px)
        downsample = self.header.downsamples[level]
        left_lv, top_lv = round(x_l0 / downsample), round(y_l0 / downsample)
        side_lv = max(1, round(side_l0 / downsample))
        if side_lv >= side_px:
            rgb, gaps = self._read_level(level, left_lv, top_lv, side_lv, side_lv)
            if side_lv == side_px:
                return rgb, gaps
            return np.asarray(cv2.resize(rgb, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8), gaps
        margin = _BICUBIC_SUPPORT_LV
        wide, gaps = self._read_level(
            level, left_lv - margin, top_lv - margin, side_lv + 2 * margin, side_lv + 2 * margin
        )
        box = (margin, margin, margin + side_lv, margin + side_lv)
        rgb = np.asarray(Image.fromarray(wide).resize((side_px, side_px), Image.Resampling.BICUBIC, box=box))
        return rgb, None if gaps is None else gaps[margin:-margin, margin:-margin]

    def thumbnail(self, mpp: float) -> Thumbnail:
        """Read the whole slide at about `mpp` um/px, in blocks, so that memory is bounded even without a pyramid.

        The step is a whole number of level-0 pixels and of pixels of the level read, so the resolution is matched
        within 25 %.

        Raises:
            SlideError: The pixels cannot be decoded.
        """
        step_l0, level = self._thumbnail_step(mpp)
        header = self.header
        step_lv = round(step_l0 / header.downsamples[level])
        columns, rows = math.ceil(header.width_l0 / step_l0), math.ceil(header.height_l0 / step_l0)
        block_th = max(1, _THUMBNAIL_BLOCK_LV // step_lv)
        rgb, absent = np.empty((rows, columns, 3), np.uint8), np.zeros((rows, columns), np.bool_)
        effort = Effort(self.path, rows * columns)
        for top in range(0, rows, block_th):
            for left in range(0, columns, block_th):
                height, width = min(block_th, rows - top), min(block_th, columns - left)
                block, gaps = self._read_level(level, left * step_lv, top * step_lv, width * step_lv, height * step_lv)
                part = slice(top, top + height), slice(left, left + width)
                rgb[part] = cv2.resize(block, (width, height), interpolation=cv2.INTER_AREA)
                if gaps is not None:
                    share = cv2.resize(gaps.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
                    absent[part] = share >= _HALF
                effort.done(width * height)
        return Thumbnail(rgb, step_l0, step_l0 * header.mpp_l0, absent if absent.any() else None)

    def _thumbnail_step(self, mpp: float) -> tuple[int, int]:
        wanted_l0 = max(1.0, mpp / self.header.mpp_l0)
        downsamples = self.header.downsamples
        for downsample in sorted(set(downsamples), reverse=True):
            step_l0 = max(1, round(wanted_l0 / downsample)) * downsample
            if step_l0 == round(step_l0) and abs(step_l0 / wanted_l0 - 1) <= _THUMBNAIL_TOLERANCE:
                return round(step_l0), downsamples.index(downsample)
        return max(1, round(wanted_l0)), 0
