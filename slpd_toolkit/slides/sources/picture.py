"""Plain images: PNG, JPEG, and TIFF that OpenSlide does not read. Each reader decodes the whole image."""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import is_url
from slpd_toolkit.slides.source import DAMAGED, SourceInfo, as_rgb, require_upright, unknown_format
from slpd_toolkit.slides.tiff_tiles import orientation_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.source import RGB, Gaps

RANK = 2
MOST_PX = 1 << 28
"""Maximum number of pixels of an image: 16,384 x 16,384, 0.8 GB per reader."""
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CONVERTED = {"1": "L", "P": "RGB", "PA": "RGBA", "LA": "RGBA", "La": "RGBA", "RGBa": "RGBA", "YCbCr": "RGB"}
_AS_STORED = frozenset({"L", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I;16N"})
_RGB_48_BIT = "16-bit RGB"
_UM_PER_INCH = 25400.0
_PHOTOMETRIC, _MIN_IS_WHITE, _ORIENTATION, _TILE_WIDTH = 262, 0, 274, 322


def recognizes(location: Location) -> bool:
    """Whether the file has the signature of a PNG, JPEG or TIFF file."""
    if is_url(location):
        return False
    with Path(location).open("rb") as file:
        return file.read(8).startswith(_MAGIC)


class PictureSource:
    """An image without a pyramid; grayscale and 16-bit images are read as 8-bit RGB."""

    def __init__(self, location: Location) -> None:
        self._path = Path(location)
        size, self._mode, mpp = read_picture_header(self._path, MOST_PX)
        self._pixels: npt.NDArray[Any] | None = None
        self.info = SourceInfo("picture", (size,), (1.0,), (mpp, mpp), tiles_px=(0,))

    def read_box(self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int) -> tuple[RGB, Gaps | None]:
        """Read a rectangle: see `slides.source.Source`."""
        assert level == 0
        if self._pixels is None:
            self._pixels = decode_picture(self._path, self._mode)
        return as_rgb(self._pixels[top_lv : top_lv + height_lv, left_lv : left_lv + width_lv])

    def close(self) -> None:
        """Release the pixels."""
        self._pixels = None


open_source = PictureSource


def read_picture_header(path: Path, most_px: int) -> tuple[tuple[int, int], str, float | None]:
    """Read size, pixel format and resolution of an image, without its pixels.

    Args:
        path: PNG, JPEG or TIFF.
        most_px: Maximum number of pixels.

    Returns:
        Width and height; the mode, as in Pillow; um/px, or None if not recorded.

    Raises:
        SlideError: The file is not an image, is larger than allowed, not upright, or has an unsupported pixel format.
    """
    try:
        with _any_size(), Image.open(path) as image:
            size, mode, dpi = image.size, image.mode, image.info.get("dpi")
            orientation = Image.Image.getexif(image).get(_ORIENTATION)  # that of PNG files would decode the pixels
            tiled = _TILE_WIDTH in dict(getattr(image, "tag_v2", {}))
    except UnidentifiedImageError as error:
        tiled = False
        size, mode, dpi = _header_of_48_bit(path, error)
        orientation = orientation_of(path)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise SlideError(f"{path} cannot be opened ({error}).", hint=DAMAGED) from error
    if tiled:  # a slide that OpenSlide refuses, which may lack tiles
        raise unknown_format(path)
    require_upright(path, orientation)
    if size[0] * size[1] > most_px:
        raise SlideError(
            f"{path} has {size[0]:,} x {size[1]:,} px; an image without tiles is decoded as a whole, allowed: "
            f"{most_px:,} px.",
            hint="Convert it to a tiled slide: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg.",
        )
    if mode not in _AS_STORED and mode not in _CONVERTED and mode != _RGB_48_BIT:
        raise SlideError(
            f"{path} has pixels of type {mode}; allowed: grayscale or RGB with 8 or 16 bits.",
            hint="Convert it: vips colourspace IN OUT.tif srgb.",
        )
    return size, mode, _mpp(dpi)


def decode_picture(path: Path, mode: str, *, as_labels: bool = False) -> npt.NDArray[Any]:
    """Decode an image whose header was checked.

    Args:
        path: The image.
        mode: From its header.
        as_labels: Return the numbers of a palette, not its colors.

    Returns:
        (H, W), (H, W, 3) or (H, W, 4) uint8 or uint16.

    Raises:
        SlideError: The pixels cannot be decoded.
    """
    if mode == _RGB_48_BIT:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.ndim != 3:
            raise SlideError(f"{path}: pixels cannot be decoded.", hint=DAMAGED)
        return np.ascontiguousarray(pixels[..., 2::-1])
    try:
        with _any_size(), Image.open(path) as image:
            wanted = "RGBA" if mode == "P" and "transparency" in image.info else _CONVERTED.get(mode)
            wanted = "" if as_labels else wanted
            inverted = mode.startswith("I;16") and dict(getattr(image, "tag_v2", {})).get(_PHOTOMETRIC) == _MIN_IS_WHITE
            pixels = np.asarray(image.convert(wanted) if wanted else image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise SlideError(f"{path}: pixels cannot be decoded ({error}).", hint=DAMAGED) from error
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.uint16)  # native byte order
        return np.asarray(0xFFFF - pixels, np.uint16) if inverted else pixels
    return pixels


def _header_of_48_bit(path: Path, unknown: Exception) -> tuple[tuple[int, int], str, tuple[float, float] | None]:
    """Read the header of a TIFF file with 16 bits per channel, which Pillow does not support."""
    import tifffile

    with suppress(Exception), tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        kind = (page.bitspersample, page.samplesperpixel, page.photometric)
        if not page.is_tiled and kind == (16, 3, tifffile.PHOTOMETRIC.RGB):
            x, y = page.get_resolution(tifffile.RESUNIT.INCH)
            return (page.imagewidth, page.imagelength), _RGB_48_BIT, (x, y)
    raise unknown_format(path) from unknown


def _mpp(dpi: object) -> float | None:
    """Convert pixels per inch to um/px; None if they are missing, implausible, or differ in x and y."""
    try:
        x, y = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return _UM_PER_INCH / x if 0 < x < math.inf and x == y else None


@contextmanager
def _any_size() -> Iterator[None]:
    """Disable Pillow's limit of pixels; `most_px` is checked instead."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
