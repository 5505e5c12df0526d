"""Plan of reading a slide: its kept regions, their tissue, and blocks of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.masks import read_mask
from slpd_toolkit.slides.overview import (
    LOOSE_SHIFT_TH,
    SHIFT_TH,
    contradictions,
    cut_overview,
    missing_pixels,
    required_pixels,
)
from slpd_toolkit.slides.quality import Quality, measure
from slpd_toolkit.slides.regions import select_regions
from slpd_toolkit.slides.tiff_tiles import STRICT_VENDORS
from slpd_toolkit.slides.tissue import tissue_fraction, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from slpd_toolkit.config.region_selection import RegionSelectionConfig
    from slpd_toolkit.slides.masks import MaskFile
    from slpd_toolkit.slides.overview import Overview
    from slpd_toolkit.slides.regions import Lattice
    from slpd_toolkit.slides.slide import Slide, Thumbnail

THUMBNAIL_MPP = 8.0
_WINDOW_LV = 256
_DARK = 60


@dataclass(frozen=True)
class Block:
    """A square of patches of a region that are read together."""

    region: int
    rows_rc: slice
    columns_rc: slice


@dataclass(frozen=True)
class SlidePlan:
    """The kept regions of one open slide."""

    lattice: Lattice
    thumbnail: Thumbnail
    mask: npt.NDArray[np.bool_]
    """(H, W) tissue mask of the thumbnail, or what the user's mask leaves of it."""
    coords_l0: npt.NDArray[np.int64]
    """(R, 2) x and y of the top-left corner of each region."""
    tissue: npt.NDArray[np.float32]
    """(R, grid, grid) tissue fraction of each patch; 0 outside the slide."""
    must_exist: npt.NDArray[np.bool_]
    """(H, W) bool, pixels of the thumbnail for which the file must have pixels."""
    window_l0: float
    """Side of the windows in which pixels are compared with the thumbnail: that of a tile of the level read."""
    shift_th: int = SHIFT_TH
    """Maximum displacement of levels relative to the thumbnail, thumbnail px."""
    bounds_corner_l0: tuple[int, int] = (0, 0)
    """Top-left corner (x, y) of the scanned area."""
    quality: Quality | None = None

    def __len__(self) -> int:
        return len(self.coords_l0)

    def corner_l0(self, block: Block) -> tuple[int, int]:
        """Return x, y of the top-left corner of the region of a block."""
        x_l0, y_l0 = self.coords_l0[block.region].tolist()
        return x_l0, y_l0

    def overview(self, block: Block) -> Overview:
        """Return the part of the thumbnail that a block covers."""
        square = square_l0(self.lattice, self.corner_l0(block), block)
        return cut_overview(self.thumbnail, self.must_exist, square, self.window_l0, self.shift_th)

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, region by region, in row-major order."""
        grid = self.lattice.grid
        side = grid // self.lattice.blocks_across
        for region in range(len(self)):
            for top in range(0, grid, side):
                for left in range(0, grid, side):
                    yield Block(region, slice(top, top + side), slice(left, left + side))


def plan_slide(
    slide: Slide, lattice: Lattice, selection: RegionSelectionConfig, mask_file: MaskFile | None = None
) -> SlidePlan:
    """Find the tissue of a slide and choose its regions.

    Args:
        slide: The slide.
        lattice: Its regions.
        selection: Settings of which regions are kept.
        mask_file: The user's mask, which replaces or restricts the detected tissue.

    Raises:
        SlideError: Pixels cannot be decoded, or the mask cannot be used.
    """
    thumbnail = slide.thumbnail(THUMBNAIL_MPP)
    mask = _mask(slide, thumbnail, mask_file)
    grid = lattice.grid
    patch_th = lattice.patch_l0 / thumbnail.step_l0
    patch_tissue = tissue_fraction(mask, [(0, 0)], (patch_th, patch_th), (lattice.rows * grid, lattice.columns * grid))[
        0
    ]
    rows, columns = select_regions(patch_tissue, grid, selection.min_tissue)
    strict = slide.header.vendor in STRICT_VENDORS
    must_exist = required_pixels(mask, thumbnail, strict=strict)
    level = slide.header.best_level(lattice.patch_l0 / lattice.patch_px)
    window_l0 = (slide.header.tiles_px[level] or _WINDOW_LV) * slide.header.downsamples[level]
    by_region = patch_tissue.reshape(lattice.rows, grid, lattice.columns, grid).swapaxes(1, 2)
    quality = measure(slide, lattice, thumbnail.rgb, mask, patch_tissue)
    return SlidePlan(
        lattice,
        thumbnail,
        mask,
        lattice.coords_l0(rows, columns),
        by_region[rows, columns],
        must_exist,
        window_l0,
        SHIFT_TH if strict else LOOSE_SHIFT_TH,
        slide.header.bounds_corner_l0,
        quality,
    )


def _mask(slide: Slide, thumbnail: Thumbnail, mask_file: MaskFile | None) -> npt.NDArray[np.bool_]:
    """Find the tissue, or what a mask leaves of it, (H, W)."""
    if mask_file is None:
        return tissue_mask(thumbnail.rgb, thumbnail.mpp)
    drawn = read_mask(mask_file, slide.header, thumbnail)
    if mask_file.mode == "only":
        return drawn
    tissue = tissue_mask(thumbnail.rgb, thumbnail.mpp)
    return tissue & drawn if mask_file.mode == "and" else tissue & ~drawn


@dataclass(frozen=True, eq=False)
class BlockPixels:
    """The pixels of a block."""

    patches: npt.NDArray[np.uint8]
    """(n, patch_px, patch_px, 3) patches that overlap the slide, row-major."""
    inside: npt.NDArray[np.bool_]
    """(rows, columns) bool, patches that overlap the slide; the others are white padding."""
    missing: npt.NDArray[np.int64]
    """(rows, columns) number of pixels of each patch that are missing, at the level read."""
    contrary: npt.NDArray[np.bool_]
    """(rows, columns) bool, patches that differ from the thumbnail."""

    @property
    def faulty(self) -> npt.NDArray[np.bool_]:
        """(rows, columns) bool, patches with missing or wrong pixels."""
        return self.contrary | (self.missing > 0)


def read_block(
    slide: Slide, lattice: Lattice, corner_l0: tuple[int, int], block: Block, overview: Overview
) -> BlockPixels:
    """Read the pixels of a block, and check them against the thumbnail.

    Args:
        slide: The slide.
        lattice: Lattice of regions.
        corner_l0: x, y of the top-left corner of the block's region.
        block: The patches to read.
        overview: Overview of the block.

    Raises:
        SlideError: Pixels cannot be decoded.
    """
    side, patch_px = block.rows_rc.stop - block.rows_rc.start, lattice.patch_px
    inside = lattice.inside(corner_l0, block.rows_rc, block.columns_rc)
    missing, contrary = np.zeros((side, side), np.int64), np.zeros((side, side), np.bool_)
    if not inside.any():
        return BlockPixels(np.empty((0, patch_px, patch_px, 3), np.uint8), inside, missing, contrary)
    square = square_l0(lattice, corner_l0, block)
    rgb, gaps = slide.read_with_gaps(*square, side * patch_px)
    if gaps is not None:
        missing = _per_patch(missing_pixels(gaps, overview, *square), side)
    if (wrong := contradictions(rgb, overview, *square)) is not None:
        contrary = (_per_patch(wrong, side) > 0) & inside
    patches = rgb.reshape(side, patch_px, side, patch_px, 3).swapaxes(1, 2)
    return BlockPixels(patches[inside], inside, missing, contrary)


def square_l0(lattice: Lattice, corner_l0: tuple[int, int], block: Block) -> tuple[int, int, int]:
    """Return left border, top border and side of a block, level-0 px."""
    side = block.rows_rc.stop - block.rows_rc.start
    left_l0 = corner_l0[0] + round(block.columns_rc.start * lattice.patch_l0)
    top_l0 = corner_l0[1] + round(block.rows_rc.start * lattice.patch_l0)
    return left_l0, top_l0, round(side * lattice.patch_l0)


def _per_patch(pixels: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.int64]:
    """Count pixels in each of side x side patches."""
    ends = np.linspace(0, len(pixels), side + 1).round().astype(np.intp)[:-1]
    rows = np.add.reduceat(pixels.astype(np.int64), ends, axis=0)
    counts: npt.NDArray[np.int64] = np.add.reduceat(rows, ends, axis=1)
    return counts


def require_tissue(plan: SlidePlan, *, masked: bool = False) -> None:
    """Check that a region was kept.

    Args:
        plan: The regions.
        masked: Whether the user gave a mask.

    Raises:
        SlideError: There is none.
    """
    if len(plan):
        return
    size = f"{plan.lattice.width_l0} x {plan.lattice.height_l0} px"
    if masked:
        raise SlideError(
            f"the mask excludes all of {size}.", hint="See its image in qc/, and check the coordinates of the mask."
        )
    if np.median(plan.thumbnail.rgb) < _DARK:
        raise SlideError(
            f"no tissue found in {size}; the background is dark, as in fluorescence slides.",
            hint="Only brightfield slides can be embedded. See its image in qc/.",
        )
    raise SlideError(
        f"no tissue found in {size}.",
        hint="See its image in qc/; if there is tissue, --min-tissue 0 keeps every region.",
    )
