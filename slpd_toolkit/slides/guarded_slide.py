"""Slides read in separate processes, so that an abort, a hang or excessive memory use fails only one slide."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.guarded import GuardedPool, Limits, ProcessDiedError, ProcessHungError
from slpd_toolkit.slides import reading
from slpd_toolkit.slides.reading import SlideHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.config.region_selection import RegionSelectionConfig
    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.masks import MaskFile
    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan
    from slpd_toolkit.slides.regions import Lattice
    from slpd_toolkit.slides.slide import Thumbnail

Given = TypeVarTuple("Given")
Made = TypeVar("Made")

_numbers = itertools.count(1)
_HINT = "The file is damaged, or OpenSlide cannot read it: copy it again, or open it in a viewer."


class SlideReaders(ClosedOnExit):
    """Processes that read slides, as many as there are concurrent reads. Use as a context manager.

    Args:
        niceness: Niceness added to that of this process.
    """

    def __init__(self, niceness: int = 0) -> None:
        self._pool = GuardedPool(Limits(niceness=niceness))
        self.call = self._pool.call

    def close(self) -> None:
        """End all running reads."""
        self._pool.close()

    def read(self, function: Callable[[SlideHandle, *Given], Made], handle: SlideHandle, *arguments: *Given) -> Made:
        """Call a function of `slides.reading`.

        If the process ends, the call is repeated once in a new one, because an earlier slide may have corrupted the
        memory of the process.

        Raises:
            SlideError: The slide cannot be read, or the process ended twice, made no progress or needs too much memory.
        """
        try:
            try:
                return self._pool.call(function, handle, *arguments)
            except ProcessDiedError:
                return self._pool.call(function, handle, *arguments)
        except ProcessDiedError as error:
            raise SlideError(f"{handle.path} crashed the process that read it: {error.message}.", hint=_HINT) from error
        except ProcessHungError as error:
            raise SlideError(f"Reading {handle.path} was stopped: {error.message}.", hint=_HINT) from error
        except MemoryError as error:
            raise SlideError(f"{handle.path} cannot be read: it requires {error}.", hint=_HINT) from error


class GuardedSlide:
    """A slide read by `SlideReaders`, with the methods of `Slide`.

    Args:
        readers: The readers.
        path: Any file that a source of `slides.sources` reads, or a URL.
        mpp_l0: Micrometers per level-0 pixel; None: the value in the file.

    Raises:
        SlideError: See `Slide`.
    """

    def __init__(self, readers: SlideReaders, path: Location, mpp_l0: float | None = None) -> None:
        self._readers, self._handle = readers, SlideHandle(path, mpp_l0, next(_numbers))
        self.header = readers.read(reading.read_header, self._handle)

    def fingerprint(self) -> str:
        """Identify the file: see `core.files.fingerprint`."""
        return self._readers.read(reading.identify, self._handle)

    def plan(self, lattice: Lattice, selection: RegionSelectionConfig, mask_file: MaskFile | None = None) -> SlidePlan:
        """Choose the regions: see `slides.plan.plan_slide`."""
        return self._readers.read(reading.plan, self._handle, lattice, selection, mask_file)

    def read_block(self, plan: SlidePlan, block: Block) -> BlockPixels:
        """Read patches: see `slides.plan.read_block`."""
        arguments = (plan.lattice, plan.corner_l0(block), block, plan.overview(block))
        return self._readers.read(reading.block, self._handle, *arguments)

    def read(self, x_l0: int, y_l0: int, side_l0: int, side_px: int) -> npt.NDArray[np.uint8]:
        """Read a square: see `Slide.read`."""
        return self._readers.read(reading.square, self._handle, x_l0, y_l0, side_l0, side_px)

    def thumbnail(self, mpp: float) -> Thumbnail:
        """Read the whole slide at low resolution: see `Slide.thumbnail`."""
        return self._readers.read(reading.thumbnail, self._handle, mpp)
