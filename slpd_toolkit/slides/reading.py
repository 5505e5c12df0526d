"""Functions that run in reader processes. A process keeps recently read slides open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import fingerprint
from slpd_toolkit.slides.plan import plan_slide, read_block
from slpd_toolkit.slides.slide import Slide

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.config.region_selection import RegionSelectionConfig
    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.masks import MaskFile
    from slpd_toolkit.slides.opened_slide import SlideHeader
    from slpd_toolkit.slides.overview import Overview
    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan
    from slpd_toolkit.slides.regions import Lattice
    from slpd_toolkit.slides.slide import Thumbnail

_OPEN = 3
"""Number of slides that a process keeps open: the one being read, and those opened ahead."""


@dataclass(frozen=True)
class SlideHandle:
    """A slide and a number; with another number, processes open the file again."""

    path: Location
    mpp_l0: float | None = None
    number: int = 0


_slides: dict[SlideHandle, Slide] = {}


def read_header(handle: SlideHandle) -> SlideHeader:
    """Open a slide and check it: see `Slide`."""
    slide = _slide(handle)
    slide.check()
    return slide.header


def identify(handle: SlideHandle) -> str:
    """Return the fingerprint of a slide's file: see `core.files.fingerprint`.

    Raises:
        SlideError: The file cannot be read.
    """
    try:
        return fingerprint(handle.path)
    except (OSError, ImportError) as error:
        raise SlideError(
            f"{handle.path} cannot be read ({error}).", hint="Check the path and its permissions."
        ) from error


def plan(
    handle: SlideHandle, lattice: Lattice, selection: RegionSelectionConfig, mask_file: MaskFile | None
) -> SlidePlan:
    """Choose regions: see `slides.plan.plan_slide`."""
    return plan_slide(_slide(handle), lattice, selection, mask_file)


def block(
    handle: SlideHandle, lattice: Lattice, corner_l0: tuple[int, int], wanted: Block, overview: Overview
) -> BlockPixels:
    """Read patches: see `slides.plan.read_block`."""
    return read_block(_slide(handle), lattice, corner_l0, wanted, overview)


def square(handle: SlideHandle, x_l0: int, y_l0: int, side_l0: int, side_px: int) -> npt.NDArray[np.uint8]:
    """Read a square: see `Slide.read`."""
    return _slide(handle).read(x_l0, y_l0, side_l0, side_px)


def thumbnail(handle: SlideHandle, mpp: float) -> Thumbnail:
    """Read the whole slide: see `Slide.thumbnail`."""
    return _slide(handle).thumbnail(mpp)


def _slide(handle: SlideHandle) -> Slide:
    """Return a slide, opened if this process does not have it open."""
    slide = _slides.pop(handle, None) or Slide(handle.path, handle.mpp_l0)
    _slides[handle] = slide
    while len(_slides) > _OPEN:
        _slides.pop(next(iter(_slides))).close()
    return slide
