"""Label images: masks whose pixels are class numbers, of any size with the slide's aspect ratio.

Those that `slpd embed` writes also record the size of their pixels in level-0 pixels.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.slides.source import open_source
from slpd_toolkit.slides.sources import picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.slides.slide import Thumbnail

    Mask = npt.NDArray[np.bool_]

MOST_PX = 1 << 31
_KEY = "slpd"
_PROPORTIONS_WITHIN = 0.02
_STRIP_LV = 2048
_JPEG_MAGIC = b"\xff\xd8\xff"
_LOSSY = frozenset({6, 7, 34892})
"""TIFF compressions that are JPEG."""
_HINT = "A label image is grayscale or has a palette; each pixel is the number of a class, and 0 means none."


def write_label_picture(path: Path, mask: Mask, about: Mapping[str, Any]) -> None:
    """Write a mask as PNG, 255 where it is true, with what is known about it."""
    text = PngImagePlugin.PngInfo()
    text.add_text(_KEY, json.dumps(about, sort_keys=True))
    with atomic_path(path) as partial:
        Image.fromarray(mask.astype(np.uint8) * 255).save(partial, "PNG", pnginfo=text)


def read_label_picture(path: Path) -> tuple[Mask, dict[str, Any]]:
    """Read what `write_label_picture` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not such a file.
    """
    with Image.open(path) as image:
        return np.asarray(image) > 0, about_label_picture(path)


def about_label_picture(path: Path) -> dict[str, Any]:
    """Return the description that `write_label_picture` stored, without reading pixels; empty for other images."""
    try:
        with Image.open(path) as image:
            about = json.loads(image.info.get(_KEY, "{}"))
    except (OSError, ValueError, SyntaxError):
        return {}
    return about if isinstance(about, dict) else {}


def read_labels(path: Path, classes: tuple[str, ...], size_l0: tuple[int, int], thumbnail: Thumbnail) -> Mask:
    """Find the pixels of a thumbnail of which at least half have one of the labels.

    Args:
        path: PNG or TIFF, with or without a pyramid.
        classes: Labels, as text; empty for all but 0.
        size_l0: Width and height of the slide.
        thumbnail: Of the slide.

    Raises:
        SlideError: The image cannot be read, is in color, has another aspect ratio, or has none of the labels.
    """
    try:
        wanted = np.array(sorted(int(label) for label in classes), np.int64)
    except ValueError:
        raise SlideError(
            f"--mask-classes: got {', '.join(classes)}; the classes of the label image {path} are numbers.",
            hint="Pass the numbers of the classes, or use a GeoJSON mask, which has class names.",
        ) from None
    levels = _open_levels(path)
    width, height = levels.sizes[0]
    step_l0 = about_label_picture(path).get("step_l0")
    exact = step_l0 == thumbnail.step_l0 and (height, width) == thumbnail.rgb.shape[:2]
    if not exact and abs(width * size_l0[1] / (height * size_l0[0]) - 1) > _PROPORTIONS_WITHIN:
        raise SlideError(
            f"The mask {path} has {width:,} x {height:,} px, but its slide has {size_l0[0]:,} x {size_l0[1]:,}: the "
            "aspect ratios differ.",
            hint="A label image must cover the whole slide.",
        )
    rows, columns = thumbnail.rgb.shape[:2]
    found = np.zeros((rows, columns), np.float32)
    seen: set[int] = set()
    scale = (1.0, 1.0) if exact else (thumbnail.step_l0 * width / size_l0[0], thumbnail.step_l0 * height / size_l0[1])
    for top, bottom, labels in levels.strips(scale, (rows, columns)):
        chosen = np.isin(labels, wanted) if len(wanted) else labels > 0
        seen.update(np.unique(labels[::16, ::16]).tolist())
        found[top:bottom] = cv2.resize(chosen.astype(np.float32), (columns, bottom - top), interpolation=cv2.INTER_AREA)
    if len(wanted) and not found.any():
        raise SlideError(
            f"The mask {path} has no pixel with the label {', '.join(classes)}; found: "
            f"{', '.join(map(str, sorted(seen)[:20]))}.",
            hint="Correct --mask-classes, or the mask.",
        )
    return np.asarray(found >= 0.5)


class _Levels:
    """The levels of a label image, read in strips."""

    def __init__(self, path: Path, pixels: npt.NDArray[Any] | None) -> None:
        self._path, self._pixels = path, pixels
        self._source = None if pixels is not None else open_source(path)
        self.sizes: tuple[tuple[int, int], ...] = ()
        self._downsamples: tuple[float, ...] = (1.0,)
        if self._source is not None:
            self.sizes, self._downsamples = self._source.info.sizes_lv, self._source.info.downsamples
        elif pixels is not None:
            self.sizes = ((pixels.shape[1], pixels.shape[0]),)

    def strips(self, scale: tuple[float, float], shape: tuple[int, int]) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
        """Yield first and last row of the result, and the labels that it is made of, zeros beyond the picture.

        Args:
            scale: Pixels of the largest level per pixel of the result, in x and y.
            shape: Rows and columns of the result.
        """
        fits = [level for level, downsample in enumerate(self._downsamples) if downsample <= min(scale) * (1 + 1e-3)]
        level = max(fits, default=0)
        x, y = (each / self._downsamples[level] for each in scale)
        width, height = self.sizes[level]
        rows_at_once = max(1, int(_STRIP_LV / y))
        for top in range(0, shape[0], rows_at_once):
            bottom = min(top + rows_at_once, shape[0])
            first, last = round(top * y), max(round(bottom * y), round(top * y) + 1)
            labels = np.zeros((last - first, max(1, round(shape[1] * x))), np.uint16)
            if first < height:
                part = self._read(level, first, min(last, height), width)[:, : labels.shape[1]]
                labels[: len(part), : part.shape[1]] = part
            yield top, bottom, labels

    def _read(self, level: int, top: int, bottom: int, width: int) -> npt.NDArray[Any]:
        if self._pixels is not None:
            return self._pixels[top:bottom]
        assert self._source is not None
        rgb, _ = self._source.read_box(level, 0, top, width, bottom - top)
        if not (np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])):
            raise SlideError(f"The mask {self._path} is a color image.", hint=_HINT)
        return rgb[..., 0]


def _open_levels(path: Path) -> _Levels:
    """Open a label image: as a slide if OpenSlide reads it, otherwise decoded as a whole."""
    try:
        is_tiled = any(source.recognizes(path) for source in _tiled_sources())
        if not is_tiled and not picture.recognizes(path):
            raise SlideError(
                f"The mask {path} is neither GeoJSON (.geojson, .json) nor a label image (PNG or TIFF).",
                hint="Unpack compressed files; convert other annotations to GeoJSON, for example in QuPath.",
            )
        _require_exact(path, is_tiled=is_tiled)
    except OSError as error:
        raise SlideError(f"The mask {path} cannot be read ({error.strerror}).", hint="Check the path.") from error
    if is_tiled:
        return _Levels(path, None)
    _, mode, _ = picture.read_picture_header(path, MOST_PX)
    pixels = picture.decode_picture(path, "L" if mode in {"1", "P"} else mode, as_labels=True)
    if pixels.ndim != 2:
        raise SlideError(f"The mask {path} is a color image.", hint=_HINT)
    return _Levels(path, pixels)


def _require_exact(path: Path, *, is_tiled: bool) -> None:
    """Check that the class numbers in a label image can be read exactly.

    Raises:
        SlideError: It is compressed as JPEG, or its tiles have 16 bits, of which OpenSlide returns the upper 8.
    """
    import tifffile

    lossy, bits = False, 8
    with path.open("rb") as file:
        lossy = file.read(3) == _JPEG_MAGIC
    with suppress(Exception), tifffile.TiffFile(path) as tiff:  # what cannot be read is reported where it is opened
        page = tiff.pages.first
        lossy, bits = page.compression in _LOSSY, page.bitspersample if is_tiled else bits
    if lossy:
        raise SlideError(
            f"The mask {path} is compressed as JPEG, which changes the numbers of classes.",
            hint="Save it without loss, for example as PNG, or as TIFF with LZW or deflate.",
        )
    if bits > 8:
        raise SlideError(
            f"The mask {path} is a tiled TIFF with {bits} bits; allowed: 8 bits in tiles, or 16 bits without tiles.",
            hint="Convert it: vips cast IN OUT.tif uchar, or save it as PNG.",
        )


def _tiled_sources() -> list[Any]:
    from slpd_toolkit.slides.sources import openslide, tiffslide

    return [tiffslide, openslide]
