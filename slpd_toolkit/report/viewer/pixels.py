"""Pixels of slides for deep zoom. Slides are read in other processes: a slide that crashes its reader fails alone."""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.guarded_slide import GuardedSlide, SlideReaders

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.store.schema import TokenMeta

    RGB = npt.NDArray[np.uint8]

TILE_PX = 512
_OVERVIEW_PX = 2048
_OPEN = 8
_TILE_BYTES = 64 << 20
_JPEG_QUALITY = 85
_WIDEST_PX = 1024


@dataclass(frozen=True)
class Pyramid:
    """The tiles of a slide: level 0 is one pixel, each level has twice the resolution, the last one is level-0 px."""

    width_l0: int
    height_l0: int

    @property
    def levels(self) -> int:
        """Number of levels."""
        return math.ceil(math.log2(max(self.width_l0, self.height_l0))) + 1

    def scale(self, level: int) -> int:
        """Return the number of level-0 pixels per pixel of a level."""
        return int(2 ** (self.levels - 1 - level))

    def tile(self, level: int, column: int, row: int) -> tuple[int, int, int, int]:
        """Return x, y, width and height of a tile, level-0 px; tiles at the right and bottom border are smaller.

        Raises:
            LookupError: There is no such tile.
        """
        if not 0 <= level < self.levels:
            raise LookupError(f"level {level} of {self.levels}")
        side_l0 = TILE_PX * self.scale(level)
        x, y = column * side_l0, row * side_l0
        if not (0 <= x < self.width_l0 and 0 <= y < self.height_l0):
            raise LookupError(f"tile {column}, {row} of level {level}")
        return x, y, min(side_l0, self.width_l0 - x), min(side_l0, self.height_l0 - y)


class OpenedPixels:
    """One open slide, with an overview from which coarse tiles are cut.

    Args:
        readers: Processes that read it.
        entry: Its row in the manifest.

    Raises:
        SlideError: It cannot be read.
    """

    def __init__(self, readers: SlideReaders, entry: SlideEntry) -> None:
        # Only ratios matter here, so that slides without a known resolution can be shown.
        self._slide = GuardedSlide(readers, entry.slide_path, mpp_l0=1.0)
        self.pyramid = Pyramid(self._slide.header.width_l0, self._slide.header.height_l0)
        self._overview: tuple[RGB, int] | None = None
        self._lock = threading.Lock()

    def fingerprint(self) -> str:
        """Identify the file: see `core.files.fingerprint`."""
        return self._slide.fingerprint()

    def tile(self, level: int, column: int, row: int) -> RGB:
        """Read a tile.

        Raises:
            LookupError: There is no such tile.
            SlideError: The pixels cannot be decoded.
        """
        x, y, width_l0, height_l0 = self.pyramid.tile(level, column, row)
        scale = self.pyramid.scale(level)
        width, height = (max(1, math.ceil(side / scale)) for side in (width_l0, height_l0))
        if scale * _OVERVIEW_PX < max(self.pyramid.width_l0, self.pyramid.height_l0):
            return self._slide.read(x, y, TILE_PX * scale, TILE_PX)[:height, :width]
        return self._from_overview((x, y, x + width_l0, y + height_l0), (width, height))

    def region(self, x_l0: int, y_l0: int, side_l0: int, side_px: int) -> RGB:
        """Read a square as a small image.

        Raises:
            SlideError: The pixels cannot be decoded.
        """
        return self._slide.read(x_l0, y_l0, side_l0, side_px)

    def _from_overview(self, box_l0: tuple[int, int, int, int], size: tuple[int, int]) -> RGB:
        with self._lock:
            if self._overview is None:
                longest = max(self.pyramid.width_l0, self.pyramid.height_l0)
                found = self._slide.thumbnail(max(1.0, longest / _OVERVIEW_PX))
                self._overview = found.rgb, found.step_l0
        rgb, step = self._overview
        height, width = rgb.shape[:2]
        left, top, right, bottom = (side / step for side in box_l0)
        box = (left, top, min(right, width), min(bottom, height))
        return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX, box=box), np.uint8)


class SlidePixels(ClosedOnExit):
    """Slides by ID, opened on demand; thread-safe.

    Args:
        entries: Slides with their files.
        metas: Attributes of the token files, with which slide files are compared.
        strict: Whether a file must be bit-identical (in its first and last MiB) to the one that was embedded, because
            its path was not given by the user but recorded in a result.
    """

    def __init__(self, entries: Mapping[str, SlideEntry], metas: Mapping[str, TokenMeta], *, strict: bool) -> None:
        self._entries, self._metas, self._strict = entries, metas, strict
        self._readers = SlideReaders()
        self._open: OrderedDict[str, OpenedPixels | SlideError] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()

    def close(self) -> None:
        """End all running reads."""
        self._readers.close()

    def has(self, slide_id: str) -> bool:
        """Whether the file of a slide is known."""
        return slide_id in self._entries

    def pyramid(self, slide_id: str) -> Pyramid:
        """Return the tiles of a slide.

        Raises:
            SlideError: The slide cannot be read, or is not the file that was embedded.
        """
        return self._slide(slide_id).pyramid

    def tile(self, slide_id: str, level: int, column: int, row: int) -> bytes:
        """Return a tile as JPEG.

        Raises:
            LookupError: There is no such tile.
            SlideError: See `pyramid`.
        """
        key = (slide_id, level, column, row)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        made = as_jpeg(self._slide(slide_id).tile(level, column, row))
        with self._lock:
            self._tiles[key] = made
            while sum(map(len, self._tiles.values())) > _TILE_BYTES:
                self._tiles.popitem(last=False)
        return made

    def region(self, slide_id: str, x_l0: int, y_l0: int, side_l0: int, side_px: int) -> bytes:
        """Return a square of a slide as JPEG.

        Raises:
            SlideError: See `pyramid`.
        """
        return as_jpeg(self._slide(slide_id).region(x_l0, y_l0, side_l0, min(side_px, _WIDEST_PX)))

    def _slide(self, slide_id: str) -> OpenedPixels:
        with self._lock:
            opening = self._opening.setdefault(slide_id, threading.Lock())
        with opening:  # one thread opens a slide, others wait for it
            with self._lock:
                found = self._open.pop(slide_id, None)
            if found is None:
                try:
                    found = self._opened(slide_id)
                except SlideError as error:
                    found = error  # not opened again: each attempt may take a minute
            with self._lock:
                self._open[slide_id] = found
                working = [name for name, each in self._open.items() if isinstance(each, OpenedPixels)]
                for name in working[:-_OPEN]:
                    del self._open[name]
        if isinstance(found, SlideError):
            raise SlideError(found.message, hint=found.hint)
        return found

    def _opened(self, slide_id: str) -> OpenedPixels:
        entry, meta = self._entries.get(slide_id), self._metas.get(slide_id)
        if entry is None:
            raise SlideError("The file of this slide is not known.", hint="Use --manifest.")
        if meta is None and self._strict:
            raise SlideError(
                f"No tokens of this slide are known, so it cannot be checked whether {entry.slide_path} is the slide "
                "that was embedded.",
                hint="Pass the manifest with --manifest to show it anyway.",
            )
        opened = OpenedPixels(self._readers, entry)
        if meta is None:
            return opened
        if not meta.located:
            raise SlideError(
                "Its features were imported without resolution or coordinates, so they cannot be placed on its pixels.",
                hint="Import them with --manifest and a column `mpp`.",
            )
        found = (opened.pyramid.width_l0, opened.pyramid.height_l0)
        wanted = (meta.slide_width_l0, meta.slide_height_l0)
        if found != wanted and not meta.source:  # imported features may not know the size of the slide
            raise SlideError(
                f"{entry.slide_path} has {found[0]:,} x {found[1]:,} px, but the slide that was embedded had "
                f"{wanted[0]:,} x {wanted[1]:,}.",
                hint="List the file that was embedded in the manifest.",
            )
        if self._strict and not meta.source and opened.fingerprint() != meta.slide_fingerprint:
            raise SlideError(
                f"{entry.slide_path} is not the file that was embedded: it was changed or replaced.",
                hint="Pass the manifest with --manifest to show it anyway.",
            )
        return opened


def as_jpeg(rgb: RGB) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
