"""Slides of all formats that OpenSlide reads. Only this module imports openslide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openslide

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import is_url
from slpd_toolkit.slides.source import DAMAGED, SourceInfo, on_white, require_upright, unknown_format
from slpd_toolkit.slides.tiff_tiles import STRICT_VENDORS, orientation_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.source import RGB, Gaps

RANK = 1
_TILE_CACHE_BYTES = 32 << 20  # per slide and process: twice the tiles of a block
_BOUNDS = (
    openslide.PROPERTY_NAME_BOUNDS_X,
    openslide.PROPERTY_NAME_BOUNDS_Y,
    openslide.PROPERTY_NAME_BOUNDS_WIDTH,
    openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
)
_UNIT_UM = {"inch": 25_400.0, "centimeter": 10_000.0}
_DICOM = (
    "OpenSlide reads DICOM files of whole-slide images (VL Whole Slide Microscopy Image) only: export the slide from "
    "the archive again as such, or convert it to a tiled TIFF with its resolution."
)


def recognizes(location: Location) -> bool:
    """Whether OpenSlide knows the format."""
    if is_url(location):
        return False
    try:
        return openslide.OpenSlide.detect_format(location) is not None
    except openslide.OpenSlideError:
        return True  # the format is known, and opening the file reports the problem


class OpenSlideSource:
    """A slide that OpenSlide reads."""

    def __init__(self, location: Location) -> None:
        self._location = location
        try:
            self._file = openslide.OpenSlide(location)
            self._file.set_cache(openslide.OpenSlideCache(_TILE_CACHE_BYTES))
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise unknown_format(location) from error
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f"{location} cannot be opened ({error}).", hint=_hint(location, str(error))) from error
        properties = self._file.properties
        if properties.get(openslide.PROPERTY_NAME_VENDOR) in STRICT_VENDORS:
            try:
                require_upright(location, orientation_of(location))
            except SlideError:
                self._file.close()
                raise
        self.info = SourceInfo(
            properties.get(openslide.PROPERTY_NAME_VENDOR, ""),
            self._file.level_dimensions,
            self._file.level_downsamples,
            (properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)),
            _mpp_of_tags(properties),
            properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            _bounds_corner_l0(properties),
            tuple(
                max(int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("width", "height"))
                for level in range(self._file.level_count)
            ),
        )

    def read_box(self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int) -> tuple[RGB, Gaps | None]:
        """Read a rectangle: see `slides.source.Source`."""
        # OpenSlide divides the location by its own downsample, which is 4.0004 instead of 4 due to rounded level sizes,
        # and interpolates the remaining fraction of a pixel (at most an eighth at a downsample of 4).
        exact = self.info.downsamples[level]
        location_l0 = (round(left_lv * exact), round(top_lv * exact))
        try:
            rgba = np.asarray(self._file.read_region(location_l0, level, (width_lv, height_lv)))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{self._location}: pixels at level-0 {location_l0} cannot be decoded ({error}).", hint=DAMAGED
            ) from error
        return on_white(rgba)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


open_source = OpenSlideSource


def _hint(location: Location, error: str) -> str:
    if error.startswith("Unsupported"):
        return "Convert it: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg."
    return _DICOM if openslide.OpenSlide.detect_format(location) == "dicom" else DAMAGED


def _mpp_of_tags(properties: Mapping[str, str]) -> float | None:
    try:
        pixels = float(properties["tiff.XResolution"])
        return _UNIT_UM[properties["tiff.ResolutionUnit"]] / pixels if pixels else None
    except (KeyError, ValueError):
        return None


def _bounds_corner_l0(properties: Mapping[str, str]) -> tuple[int, int]:
    """Return the top-left corner (x, y) of the scanned area, level-0 px; (0, 0) unless all four bounds are integers."""
    try:
        x_l0, y_l0, _, _ = (int(properties[name]) for name in _BOUNDS)
    except (KeyError, ValueError):
        return 0, 0
    return x_l0, y_l0
