"""The lattice of regions of a slide: positions, size at level 0, and selection of regions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.units import l0_from_px

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.slides.opened_slide import SlideHeader

BLOCK_PX = 1024
"""Maximum side of the blocks in which regions are read, target px. Limits memory; few tiles are decoded twice."""

BLOCK_LV = 2048
"""Maximum side of the blocks in pixels of the level read. Limits memory if a pyramid is coarse or missing."""


@dataclass(frozen=True)
class Lattice:
    """Non-overlapping regions from level-0 (0, 0) that cover a slide; the last ones extend beyond its border."""

    width_l0: int
    height_l0: int
    mpp_l0: float
    target_mpp: float
    patch_px: int
    region_px: int
    region_l0: int
    blocks_across: int
    """Number of blocks along the side of a region; each has whole patches and a whole number of level-0 px."""

    @property
    def grid(self) -> int:
        """Number of patches along one side of a region."""
        return self.region_px // self.patch_px

    @property
    def patch_l0(self) -> float:
        """Side of a patch in level-0 px; not always whole."""
        return self.region_l0 / self.grid

    @property
    def effective_mpp(self) -> float:
        """Effective resolution, um/px: the target, except for the rounding of `region_l0`."""
        return self.region_l0 * self.mpp_l0 / self.region_px

    @property
    def upsampling(self) -> float:
        """Factor by which level 0 is upsampled to the target resolution; 1 if it is fine enough."""
        return max(1.0, self.region_px / self.region_l0)

    @property
    def rows(self) -> int:
        """Number of regions from top to bottom."""
        return math.ceil(self.height_l0 / self.region_l0)

    @property
    def columns(self) -> int:
        """Number of regions from left to right."""
        return math.ceil(self.width_l0 / self.region_l0)

    def coords_l0(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the top-left corners (x, y), (R, 2), of regions given their lattice rows and columns, (R,) each."""
        return np.stack([columns, rows], axis=1) * self.region_l0

    def inside(self, corner_l0: tuple[int, int], rows_rc: slice, columns_rc: slice) -> npt.NDArray[np.bool_]:
        """Return which patches of a region overlap the slide; the others are padding."""
        index = np.arange(self.grid)
        y_inside = corner_l0[1] + index[rows_rc] * self.patch_l0 < self.height_l0
        x_inside = corner_l0[0] + index[columns_rc] * self.patch_l0 < self.width_l0
        return np.outer(y_inside, x_inside)


def lay_lattice(
    slide: SlideHeader, *, target_mpp: float, patch_px: int, region_px: int, max_upsample: float
) -> Lattice:
    """Cover a slide with regions of `region_px` at `target_mpp`.

    Each block of a region spans a whole number of level-0 pixels and of pixels of the level read, so that every pixel
    is averaged over its exact area. This changes the resolution by up to half a pixel per block, 0.1 % at usual sizes;
    the effective resolution is stored.

    Raises:
        SlideError: The slide is coarser than `max_upsample` allows.
    """
    wanted_l0 = l0_from_px(region_px, target_mpp=target_mpp, mpp_l0=slide.mpp_l0)
    if region_px / wanted_l0 > max_upsample * (1 + 1e-9):
        raise SlideError(
            f"{slide.path} has {slide.mpp_l0:.4g} um/px; {target_mpp:g} um/px requires upsampling by "
            f"{region_px / wanted_l0:.2f}, allowed: {max_upsample:g}.",
            hint=f"Choose --mpp {math.ceil(1000 * slide.mpp_l0 / max_upsample) / 1000:g} or coarser, or raise "
            "--max-upsample.",
        )
    downsample = slide.downsamples[slide.best_level(wanted_l0 / region_px)]
    across = count_blocks(region_px // patch_px, patch_px, wanted_l0 / region_px / downsample)
    unit_l0 = across * (round(downsample) if downsample == round(downsample) else 1)
    region_l0 = max(1, round(wanted_l0 / unit_l0)) * unit_l0
    return Lattice(slide.width_l0, slide.height_l0, slide.mpp_l0, target_mpp, patch_px, region_px, region_l0, across)


def count_blocks(grid: int, patch_px: int, shrinkage: float) -> int:
    """Return the minimum number of blocks along the side of a region with whole patches and bounded size.

    Args:
        grid: Number of patches along one side of a region.
        patch_px: Side of a patch.
        shrinkage: Number of pixels of the level read per target pixel.
    """
    largest_px = min(BLOCK_PX, BLOCK_LV / shrinkage)
    return min(
        count
        for count in range(1, grid + 1)
        if grid % count == 0 and (grid // count * patch_px <= largest_px or count == grid)
    )


def select_regions(
    patch_tissue: npt.NDArray[np.float32], grid: int, min_tissue: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose the regions with a tissue fraction of at least `min_tissue`, and always the best one.

    The best region is kept so that biopsies smaller than a tenth of a region are not dropped.

    Args:
        patch_tissue: (rows * grid, columns * grid) tissue fraction of every patch of the lattice; 0 outside the slide.
        grid: Number of patches along one side of a region.
        min_tissue: Minimum tissue fraction of a region, over its full area.

    Returns:
        Rows and columns in the lattice, (R,) each, row-major. Empty if there is no tissue anywhere.
    """
    rows, columns = patch_tissue.shape[0] // grid, patch_tissue.shape[1] // grid
    region_tissue = patch_tissue.reshape(rows, grid, columns, grid).mean(axis=(1, 3), dtype=np.float64)
    best = region_tissue.max()
    kept = (region_tissue >= min_tissue) | ((region_tissue == best) & (best > 0))
    row_index, column_index = np.nonzero(kept)
    return row_index.astype(np.int64), column_index.astype(np.int64)
