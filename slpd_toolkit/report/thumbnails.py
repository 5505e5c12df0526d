"""Stand-in until the thumbnails land."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slpd_toolkit.manifest import SlideEntry


class Thumbnails:
    """Nothing."""

    def __init__(self, entries: Mapping[str, SlideEntry], side_px: int) -> None:
        self.entries, self.side_px = entries, side_px
