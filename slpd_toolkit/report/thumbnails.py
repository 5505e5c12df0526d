"""Thumbnails of slides, read on demand; slides that cannot be read are recorded and shown without pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.manifest import check_rows, read_table, summarise
from slpd_toolkit.core.text import count
from slpd_toolkit.slides.guarded_slide import GuardedSlide, SlideReaders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt
    import pandas as pd

    from slpd_toolkit.core.manifest import Problem, SlideEntry


Seen = TypeVar("Seen")


def slide_files(manifest: Path | None, slides_root: Path | None) -> dict[str, SlideEntry]:
    """Read the slide paths of a manifest, for images that can be drawn without slides.

    Args:
        manifest: Cohort CSV; None for no slides.
        slides_root: Base folder of relative slide paths; None for the manifest's folder.

    Raises:
        UsageError: The manifest cannot be read. Invalid rows are reported as a warning.
    """
    entries, problems = find_slides(manifest, slides_root)
    if problems:
        console.warn(f"{manifest}: {count(len(problems), 'problem')}; shown without pixels:\n{summarise(problems)}")
    return entries


def find_slides(manifest: Path | None, slides_root: Path | None) -> tuple[dict[str, SlideEntry], list[Problem]]:
    """Return the same as `slide_files`, and also the invalid rows."""
    if manifest is None:
        return {}, []
    entries, problems = check_rows(read_table(manifest), slides_root or manifest.parent)
    return {entry.slide_id: entry for entry in entries}, problems


@dataclass(frozen=True, eq=False)
class WholeSlide:
    """Thumbnail of a whole slide."""

    rgb: npt.NDArray[np.uint8]
    """(H, W, 3)"""
    size_l0: tuple[int, int]
    """Width and height of the slide, level-0 px."""


@dataclass(frozen=True)
class SlideFrame:
    """Extent of a slide's level-0 coordinates."""

    size_l0: tuple[int, int]
    """Width and height of the slide, level-0 px."""

    bounds_corner_l0: tuple[int, int]
    """Top-left corner (x, y) of OpenSlide's bounds, level-0 px; (0, 0) if the file has none."""


class Thumbnails:
    """Reads thumbnails of slides by their IDs.

    Args:
        entries: Slides with their paths, from `manifest.check_rows`.
        side_px: Longest side of a thumbnail.
    """

    def __init__(self, entries: Mapping[str, SlideEntry], side_px: int) -> None:
        self._entries, self._side_px = entries, side_px
        self.failures: dict[str, SlideError] = {}
        """Slides that are listed but could not be read, with the reason."""

    @classmethod
    def of_manifest(cls, table: pd.DataFrame, folder: Path, side_px: int) -> Thumbnails:
        """Create a reader for the slides of a manifest whose files exist.

        Args:
            table: From `manifest.read_table`; its column `slide_path` may be missing.
            folder: Base folder of relative slide paths.
            side_px: Longest side of a thumbnail.
        """
        entries = check_rows(table, folder)[0] if "slide_path" in table else []
        return cls({entry.slide_id: entry for entry in entries}, side_px)

    def frame(self, slide_id: str) -> SlideFrame | None:
        """Return the size and bounds of a slide without reading pixels, or None if `read` would return None."""
        return self._opened(slide_id, _frame)

    def read(self, slide_id: str) -> WholeSlide | None:
        """Return the thumbnail with the slide's size, or None if the slide is not listed or cannot be read."""
        return self._opened(slide_id, self._in_small)

    def _opened(self, slide_id: str, look: Callable[[GuardedSlide], Seen]) -> Seen | None:
        entry = self._entries.get(slide_id)
        if entry is None or slide_id in self.failures:
            return None
        try:
            # Only ratios matter here, so that slides without a known resolution can have a thumbnail.
            with SlideReaders() as readers:
                return look(GuardedSlide(readers, entry.slide_path, mpp_l0=1.0))
        except SlideError as error:
            self.failures[slide_id] = error
            return None

    def _in_small(self, slide: GuardedSlide) -> WholeSlide:
        size_l0 = (slide.header.width_l0, slide.header.height_l0)
        step_l0 = max(1.0, max(size_l0) / self._side_px)
        return WholeSlide(_exactly(slide.thumbnail(step_l0).rgb, size_l0, step_l0), size_l0)


def _frame(slide: GuardedSlide) -> SlideFrame:
    header = slide.header
    return SlideFrame((header.width_l0, header.height_l0), header.bounds_corner_l0)


def _exactly(rgb: npt.NDArray[np.uint8], size_l0: tuple[int, int], step_l0: float) -> npt.NDArray[np.uint8]:
    """Resize from the reader's downsampling (within 25 %) to the requested one."""
    width, height = (max(1, round(side_l0 / step_l0)) for side_l0 in size_l0)
    smaller = width <= rgb.shape[1]
    resized = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
