"""What stage one reads of a slide: its kept regions, their tissue, and the blocks that its pixels come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.regions import select_regions
from slpd_toolkit.slides.tissue import tissue_fraction, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from slpd_toolkit.slides.regions import Lattice
    from slpd_toolkit.slides.slide import Slide, Thumbnail

THUMBNAIL_MPP = 8.0


@dataclass(frozen=True)
class Block:
    """A square of patches of one region, read at once."""

    region: int
    rows_rc: slice
    columns_rc: slice


@dataclass(frozen=True)
class SlidePlan:
    """The kept regions of one open slide."""

    lattice: Lattice
    thumbnail: Thumbnail
    mask: npt.NDArray[np.bool_]
    """(H, W) tissue mask of the thumbnail."""
    coords_l0: npt.NDArray[np.int64]
    """(R, 2) top-left corners (x, y)."""
    tissue: npt.NDArray[np.float32]
    """(R, grid, grid) tissue fraction of each patch; 0 outside the slide."""

    def __len__(self) -> int:
        return len(self.coords_l0)

    def blocks(self) -> Iterator[Block]:
        """All blocks, region by region, row-major."""
        grid = self.lattice.grid
        side = grid // self.lattice.blocks_across
        for region in range(len(self)):
            for top in range(0, grid, side):
                for left in range(0, grid, side):
                    yield Block(region, slice(top, top + side), slice(left, left + side))


def plan_slide(slide: Slide, lattice: Lattice, min_tissue: float) -> SlidePlan:
    """Find the tissue of a slide and choose its regions.

    Raises:
        SlideError: Pixels cannot be decoded.
    """
    thumbnail = slide.thumbnail(THUMBNAIL_MPP)
    mask = tissue_mask(thumbnail.rgb, thumbnail.mpp)
    grid = lattice.grid
    patch_th = lattice.patch_l0 / thumbnail.step_l0
    patch_tissue = tissue_fraction(mask, [(0, 0)], (patch_th, patch_th), (lattice.rows * grid, lattice.columns * grid))[
        0
    ]
    rows, columns = select_regions(patch_tissue, grid, min_tissue)
    by_region = patch_tissue.reshape(lattice.rows, grid, lattice.columns, grid).swapaxes(1, 2)
    return SlidePlan(lattice, thumbnail, mask, lattice.coords_l0(rows, columns), by_region[rows, columns])


def read_block(
    slide: Slide, lattice: Lattice, corner_l0: tuple[int, int], block: Block
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read the pixels of a block.

    Args:
        slide: The slide.
        lattice: Its regions.
        corner_l0: x, y of the top-left corner of the block's region.
        block: Which patches of the region.

    Returns:
        The patches that touch the slide, (n, patch_px, patch_px, 3) uint8, row-major; and which they are, (rows,
        columns) of bool. The others are pure padding, white all over, and need no pixels.

    Raises:
        SlideError: Pixels cannot be decoded.
    """
    side = block.rows_rc.stop - block.rows_rc.start
    x_l0, y_l0 = corner_l0
    inside = lattice.inside(corner_l0, block.rows_rc, block.columns_rc)
    patch_px = lattice.patch_px
    if not inside.any():
        return np.empty((0, patch_px, patch_px, 3), np.uint8), inside
    left_l0 = x_l0 + round(block.columns_rc.start * lattice.patch_l0)
    top_l0 = y_l0 + round(block.rows_rc.start * lattice.patch_l0)
    rgb = slide.read(left_l0, top_l0, round(side * lattice.patch_l0), side * patch_px)
    patches = rgb.reshape(side, patch_px, side, patch_px, 3).swapaxes(1, 2)
    return patches[inside], inside


def require_tissue(plan: SlidePlan) -> None:
    """Raise a SlideError if no region was kept."""
    if not len(plan):
        raise SlideError(
            f"no tissue found in {plan.lattice.width_l0} x {plan.lattice.height_l0} px.",
            hint="Look at its picture in qc/; if there is tissue, --min-tissue 0 keeps every region.",
        )
