"""Common interface of all sources of pixels, and the choice of the source for a file.

A source is a module of `slides.sources` with `RANK`, `recognizes(location)` and `open_source(location)`. A file is read
by the first source, in order of rank, that recognizes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import is_url, special_kind
from slpd_toolkit.core.registry import Registry

if TYPE_CHECKING:
    from types import ModuleType

    import numpy.typing as npt

    from slpd_toolkit.core.files import Location

    RGB = npt.NDArray[np.uint8]
    Gaps = npt.NDArray[np.bool_]

SOURCES = Registry("slpd_toolkit.slides.sources", "source")
DAMAGED = "The file may be truncated or damaged: copy it again, or open it in a viewer."


@dataclass(frozen=True)
class SourceInfo:
    """Header information of a file."""

    vendor: str
    """Name of the format."""
    sizes_lv: tuple[tuple[int, int], ...]
    """Width and height of each level, px; level 0 is the largest."""
    downsamples: tuple[float, ...]
    """Level-0 pixels per pixel of each level, as the source converts locations."""
    mpp_xy: tuple[float | str | None, float | str | None] = (None, None)
    """Micrometers per level-0 pixel in x and y, unchecked; None if not recorded."""
    mpp_tags: float | None = None
    """Micrometers per level-0 pixel according to the TIFF tags, where the format has another statement as well."""
    objective_power: str | None = None
    """Magnification of the objective, unchecked."""
    bounds_corner_l0: tuple[int, int] = (0, 0)
    """Top-left corner (x, y) of the scanned area."""
    tiles_px: tuple[int, ...] = ()
    """Side of the tiles of each level; 0 if there are none."""


class Source(Protocol):
    """An open file."""

    info: SourceInfo

    def read_box(self, level: int, left_lv: int, top_lv: int, width_lv: int, height_lv: int) -> tuple[RGB, Gaps | None]:
        """Read a rectangle inside a level.

        Returns:
            (height, width, 3) uint8 RGB on white; and (height, width) bool, pixels that are missing from the file, or
            None if it has all.

        Raises:
            SlideError: The pixels cannot be decoded.
        """

    def close(self) -> None:
        """Close the file."""


def open_source(location: Location) -> Source:
    """Open a file with the first source that recognizes it.

    Args:
        location: A path, or a URL that fsspec opens.

    Raises:
        SlideError: The file cannot be read, or no source recognizes it.
    """
    if not is_url(location):
        _require_readable(location)
    sources, missing = _in_order()
    for source in sources:
        if source.recognizes(location):
            opened: Source = source.open_source(location)
            return opened
    if missing:
        raise SlideError(
            f"{location} is not an image (PNG, JPEG or TIFF), and {missing[0]}.", hint="Install openslide-python."
        )
    raise unknown_format(location)


def unknown_format(location: Location) -> SlideError:
    """Describe a file that no source can read."""
    return SlideError(
        f"{location} is not a slide that OpenSlide reads, nor an image (PNG, JPEG or TIFF).",
        hint="It may be truncated: compare its size with that of the original. Convert other images to a tiled TIFF.",
    )


def require_upright(location: Location, orientation: object) -> None:
    """Check that an image is stored in the orientation in which it is displayed.

    Some readers ignore the orientation, some rotate the image, and OpenSlide mirrors each tile in place. The same
    file would therefore have different coordinates or wrong pixels.

    Args:
        location: The file.
        orientation: The tag Orientation of TIFF and EXIF, 1 to 8; None if the file has none.

    Raises:
        SlideError: The image has to be rotated or mirrored for display.
    """
    if orientation is None or orientation in {0, 1}:
        return
    raise SlideError(
        f"{location} has the orientation {orientation} in its tags (rotated or mirrored for display); allowed: 1 "
        "(upright). Viewers do not agree on such files, and OpenSlide mirrors their tiles.",
        hint="Write it upright: vips autorot IN OUT.tif[tile,pyramid,compression=jpeg].",
    )


def on_white(rgba: npt.NDArray[np.uint8]) -> tuple[RGB, Gaps | None]:
    """Composite pixels on white; also return which are transparent, None if none are."""
    alpha = rgba[..., 3:]
    rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    gaps = None
    if alpha.min() < 255:
        gaps = np.asarray(alpha[..., 0] == 0)
        opacity = alpha.astype(np.uint16)
        blended = (rgb * opacity + 255 * (255 - opacity) + 127) // 255
        rgb = blended.astype(np.uint8)
    return rgb, gaps if gaps is not None and gaps.any() else None


def as_rgb(pixels: npt.NDArray[Any]) -> tuple[RGB, Gaps | None]:
    """Convert grayscale, RGB or RGBA pixels of 8 or 16 bits to RGB on white; the upper 8 of 16 bits are kept.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 or uint16.
    """
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        grey = pixels.reshape(*pixels.shape[:2], 1)
        return np.repeat(grey, 3, axis=2), None
    if pixels.shape[2] == 4:
        return on_white(np.ascontiguousarray(pixels))
    return np.ascontiguousarray(pixels), None


@cache
def _in_order() -> tuple[list[ModuleType], list[str]]:
    """Return the sources by rank, and why others cannot be imported: images are read on machines without OpenSlide."""
    found, missing = [], []
    for name in SOURCES.names():
        try:
            found.append(SOURCES.load(name))
        except ModuleNotFoundError as error:
            missing.append(f"the source {name} is not available ({error})")
    return sorted(found, key=lambda module: int(module.RANK)), missing


def _require_readable(location: Location) -> None:
    """Check that a path is a readable regular file; opening a FIFO or a device would block forever.

    Raises:
        SlideError: It is not.
    """
    from pathlib import Path

    path = Path(location)
    try:
        kind = special_kind(path)
        if kind:
            raise SlideError(
                f"{path} is {kind}, not a slide file.",
                hint="Enter the path of the slide file; for DICOM, any file of the slide.",
            )
        path.open("rb").close()  # OpenSlide reports files without read permission as unsupported
    except OSError as error:
        raise SlideError(
            f"{path} cannot be opened ({error.strerror}).", hint="Check the path and its permissions."
        ) from error
