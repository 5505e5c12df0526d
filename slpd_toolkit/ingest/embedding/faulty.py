"""Errors for patches whose pixels are missing from the file, or differ from the thumbnail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.text import count
from slpd_toolkit.slides.plan import square_l0

if TYPE_CHECKING:
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.slides.plan import Block, BlockPixels, SlidePlan

_HINT = (
    "Copy the file again, or convert it again from its source. --allow-missing-pixels embeds the other patches, and "
    "leaves these without a token."
)


def faulty_pixels(entry: SlideEntry, plan: SlidePlan, block: Block, pixels: BlockPixels) -> SlideError:
    """Describe the faulty patches of a block."""
    left_l0, top_l0, side_l0 = square_l0(plan.lattice, plan.corner_l0(block), block)
    place = f"in the {side_l0:,} px square at level-0 ({left_l0}, {top_l0})"
    if pixels.missing.any():
        error = f"{count(int(pixels.missing.sum()), 'pixel is', 'pixels are')} missing from the file"
    else:
        found = count(int(pixels.contrary.sum()), "patch differs", "patches differ")
        error = f"{found} from the thumbnail of the slide"
    return SlideError(f"{entry.slide_path}: {error}, {place}.", hint=_HINT)


def nothing_left(entry: SlideEntry) -> SlideError:
    """Describe a slide without any intact patch."""
    return SlideError(f"{entry.slide_path}: all patches of the kept regions lack pixels.", hint="Copy the file again.")
