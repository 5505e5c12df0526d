"""OME-TIFF, and TIFF slides at URLs (s3://, https:// and others supported by fsspec), read by tiffslide.

Optional: `pip install 'slpd-toolkit[remote]'`. The network is used only for URLs in the manifest.
"""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import is_url
from slpd_toolkit.core.text import count
from slpd_toolkit.slides.source import DAMAGED, SourceInfo, as_rgb, require_upright

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.source import RGB, Gaps

RANK = 0
_INSTALL = "Run: pip install 'slpd-toolkit[remote]'."
_STAGE = "Copy the file to this machine, where OpenSlide can read it; --stage-to does this for each slide in turn."
_VENDORS = frozenset({"aperio", "generic-tiff", "ome-tiff"})
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_ADDRESS = "Check the address, your access rights, and the network."


def recognizes(location: Location) -> bool:
    """Whether it is a URL, or an OME-TIFF file, whose pyramid and resolution OpenSlide does not read."""
    if is_url(location):
        return True
    with Path(location).open("rb") as file:
        if not file.read(4).startswith(_TIFF_MAGIC):
            return False
    import tifffile

    try:
        with tifffile.TiffFile(location) as tiff:
            return bool(tiff.is_ome)
    except Exception:  # noqa: BLE001 - another source reports the problem
        return False


class TiffSlideSource:
    """A TIFF slide that tiffslide reads."""

    def __init__(self, location: Location) -> None:
        if find_spec("tiffslide") is None:
            raise SlideError(f"{location} needs tiffslide, which is not installed.", hint=_INSTALL)
        os.environ.setdefault("TIFFSLIDE_NUM_DECODE_THREADS", "1")  # reader processes are single-threaded
        import tiffslide

        self._location = location
        try:
            self._file = tiffslide.TiffSlide(location)
        except ImportError as error:
            raise SlideError(f"{location} cannot be opened ({error}).", hint=_INSTALL) from error
        except OSError as error:
            raise SlideError(f"{location} cannot be opened ({_told(error)}).", hint=_ADDRESS) from error
        except Exception as error:
            raise SlideError(f"{location} cannot be opened as a TIFF slide ({_told(error)}).", hint=DAMAGED) from error
        try:
            self.info = self._read_info()
        except SlideError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise SlideError(f"{location} cannot be opened as a TIFF slide ({_told(error)}).", hint=DAMAGED) from error

    def read_box(self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int) -> tuple[RGB, Gaps | None]:
        """Read a rectangle: see `slides.source.Source`."""
        downsample = self.info.downsamples[level]
        # tiffslide divides by the downsample and truncates to whole pixels.
        location_l0 = (math.ceil(left_lv * downsample), math.ceil(top_lv * downsample))
        try:
            pixels = self._file.read_region(location_l0, level, (width_lv, height_lv), as_array=True)
        except Exception as error:
            raise SlideError(
                f"{self._location}: pixels at level-0 {location_l0} cannot be decoded ({_told(error)}).", hint=DAMAGED
            ) from error
        rgb, gaps = as_rgb(np.asarray(pixels))
        absent = self._absent[level]
        if absent is None:
            return rgb, gaps
        page = self._pages[level]
        rows, columns = (
            (first + np.arange(count)) // (side or count)
            for first, count, side in ((top_lv, height_lv, page.tilelength), (left_lv, width_lv, page.tilewidth))
        )
        lacking = absent[np.ix_(rows, columns)]
        rgb[lacking] = 255
        both = lacking if gaps is None else lacking | gaps
        return rgb, both if both.any() else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_info(self) -> SourceInfo:
        properties, tiff = self._file.properties, self._file.ts_tifffile
        self._pages = [level.keyframe for level in tiff.series[properties["tiffslide.series-index"]].levels]
        ome = tiff.ome_metadata if tiff.is_ome else None
        vendor = "ome-tiff" if ome else _vendor(tiff)
        _require_brightfield(self._location, vendor, properties["tiffslide.series-axes"], self._pages)
        orientation = self._pages[0].tags.get("Orientation")
        require_upright(self._location, None if orientation is None else int(orientation.value))
        self._absent = [_absent_tiles(page, int(tiff.filehandle.size), self._location) for page in self._pages]
        return SourceInfo(
            vendor,
            self._file.level_dimensions,
            self._file.level_downsamples,
            _ome_mpp(ome) if ome else (properties["tiffslide.mpp-x"], properties["tiffslide.mpp-y"]),
            tiles_px=tuple(max(page.tilewidth, page.tilelength) for page in self._pages),
        )


open_source = TiffSlideSource


def _vendor(tiff: Any) -> str:
    """Return the name of the format, as in OpenSlide."""
    others = {"scn": "leica", "bif": "ventana", "ndpi": "hamamatsu", "philips": "philips"}
    known = {"svs": "aperio", **others}
    return next((vendor for name, vendor in known.items() if getattr(tiff, f"is_{name}")), "generic-tiff")


def _require_brightfield(location: Location, vendor: str, axes: str, pages: Sequence[Any]) -> None:
    """Check that this is one RGB or grayscale image, in a format that tiffslide reads like OpenSlide.

    Raises:
        SlideError: It is not.
    """
    if vendor not in _VENDORS:
        raise SlideError(
            f"{location} has the format {vendor}; formats supported by tiffslide here: {', '.join(sorted(_VENDORS))}.",
            hint=_STAGE,
        )
    page = pages[0]
    color = page.photometric.name in {"RGB", "YCBCR"} and axes in {"YXS", "CYX"} and page.samplesperpixel in {3, 4}
    grey = page.photometric.name == "MINISBLACK" and axes == "YX"
    if not (color or grey) or str(page.dtype) not in {"uint8", "uint16"} or not all(each.is_tiled for each in pages):
        raise SlideError(
            f"{location} has {page.photometric.name} pixels of {page.dtype} with axes {axes}, "
            f"{'in tiles' if page.is_tiled else 'without tiles'}; allowed: tiled RGB or grayscale with 8 or 16 bits.",
            hint="Only brightfield slides can be embedded; convert other layouts, for example with bfconvert.",
        )


def _absent_tiles(page: Any, file_bytes: int, location: Location) -> Any:
    """Return the missing tiles of a level, (rows, columns) bool, or None if it has all.

    Raises:
        SlideError: Tiles are beyond the end of the file.
    """
    rows, columns = math.ceil(page.imagelength / page.tilelength), math.ceil(page.imagewidth / page.tilewidth)
    offsets, sizes = (np.array(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    if len(offsets) % (rows * columns) or len(offsets) != len(sizes) or not len(offsets):
        raise SlideError(f"{location}: its tile table does not match the size of its image.", hint=DAMAGED)
    if file_bytes > 0 and (offsets + sizes > file_bytes).any():
        raise SlideError(
            f"{location}: {count(int((offsets + sizes > file_bytes).sum()), 'tile is', 'tiles are')} beyond the end "
            "of the file.",
            hint="It is truncated or damaged: compare its size with that of the original, and copy it again.",
        )
    absent = ((offsets == 0) | (sizes == 0)).reshape(-1, rows, columns).any(axis=0)
    return absent if absent.any() else None


def _ome_mpp(xml: str) -> tuple[float | None, float | None]:
    """Read um/px of the first image of OME metadata."""
    try:
        pixels = next(node for node in ET.fromstring(xml).iter() if node.tag.rpartition("}")[2] == "Pixels")  # noqa: S314
        x, y = (
            float(pixels.attrib[f"PhysicalSize{axis}"]) * _UM[pixels.attrib.get(f"PhysicalSize{axis}Unit", "µm")]
            for axis in "XY"
        )
    except (ET.ParseError, StopIteration, KeyError, ValueError):
        return None, None
    return x, y


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
