"""What reader processes do: functions of a slide's path. A process keeps the slides open that it read last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.slides.plan import plan_slide, read_block
from slpd_toolkit.slides.slide import Slide

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.slides.plan import Block, SlidePlan
    from slpd_toolkit.slides.regions import Lattice
    from slpd_toolkit.slides.slide import SlideHeader, Thumbnail

_OPEN = 4
_Key = tuple["Path", float | None, int, int, int]

_slides: dict[_Key, Slide] = {}


def read_header(path: Path, mpp_l0: float | None) -> SlideHeader:
    """Open a slide: see `Slide`."""
    return _slide(path, mpp_l0).header


def plan(path: Path, mpp_l0: float | None, lattice: Lattice, min_tissue: float) -> SlidePlan:
    """Choose regions: see `slides.plan.plan_slide`."""
    return plan_slide(_slide(path, mpp_l0), lattice, min_tissue)


def block(
    path: Path, mpp_l0: float | None, lattice: Lattice, corner_l0: tuple[int, int], wanted: Block
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read patches: see `slides.plan.read_block`."""
    return read_block(_slide(path, mpp_l0), lattice, corner_l0, wanted)


def square(path: Path, mpp_l0: float | None, x_l0: int, y_l0: int, side_l0: int, side_px: int) -> npt.NDArray[np.uint8]:
    """Read a square: see `Slide.read`."""
    return _slide(path, mpp_l0).read(x_l0, y_l0, side_l0, side_px)


def thumbnail(path: Path, mpp_l0: float | None, mpp: float) -> Thumbnail:
    """Read the whole slide: see `Slide.thumbnail`."""
    return _slide(path, mpp_l0).thumbnail(mpp)


def _slide(path: Path, mpp_l0: float | None) -> Slide:
    """Open a slide, unless it is open and the file is still the same."""
    state = path.stat()
    key = (path, mpp_l0, state.st_ino, state.st_size, state.st_mtime_ns)
    slide = _slides.pop(key, None) or Slide(path, mpp_l0)
    _slides[key] = slide
    while len(_slides) > _OPEN:
        _slides.pop(next(iter(_slides))).close()
    return slide
