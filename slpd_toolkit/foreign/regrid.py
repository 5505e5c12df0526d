"""Assignment of patches with coordinates to the cells of regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.text import agree, count
from slpd_toolkit.foreign.lattice import find_lattice

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.foreign.features import SlideFeatures
    from slpd_toolkit.foreign.lattice import PatchLattice

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Booleans = npt.NDArray[np.bool_]

_LISTED = 3
_LARGEST_SIDE_L0 = 1 << 31
"""Upper bound of the side of a slide, so that cell numbers fit into 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Number of patches that were placed, or left out by reason; distances in level-0 px."""

    patches: int
    placed: int
    augmented: int = 0
    """Left out: augmented copies."""
    between: int = 0
    """Left out: overlapping patches between those that are used."""
    off_lattice: int = 0
    """Left out: distance from the cell above the tolerance."""
    collisions: int = 0
    """Left out: the cell has a nearer patch."""
    sparse: int = 0
    """Left out: in regions with too few patches."""
    shift_median_l0: float = 0.0
    """Median distance by which placed patches were moved to their cell, along x or y."""
    shift_max_l0: float = 0.0

    @property
    def left_out(self) -> int:
        """Number of patches that were left out."""
        return self.patches - self.placed


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Regions, row-major, and the cell of each placed patch, in the order of the regions."""

    coords_l0: Integers
    """(R, 2) x and y of the top-left corner of each region."""
    region_l0: int
    grid: int
    starts: Integers
    """(R + 1,) the patches of region r are starts[r] to starts[r + 1] - 1."""
    source: Integers
    """(P,) row of each patch in the features."""
    rows: Integers
    """(P,) grid row of each patch."""
    columns: Integers
    """(P,) grid column of each patch."""
    report: Report

    def __len__(self) -> int:
        return len(self.coords_l0)

    @property
    def present(self) -> Booleans:
        """(R, grid, grid) bool, cells that have a patch."""
        present = np.zeros((len(self), self.grid, self.grid), np.bool_)
        present[np.repeat(np.arange(len(self)), np.diff(self.starts)), self.rows, self.columns] = True
        return present


def place(slide: SlideFeatures, *, grid: int, tolerance: float, min_tissue: float) -> Placement:
    """Assign each patch of a slide to a cell, or record the reason for leaving it out.

    Args:
        slide: Features and coordinates.
        grid: Number of patches along the side of a region.
        tolerance: Maximum distance of a patch from its cell along x or y, in patch sides; above 0, at most 0.5.
        min_tissue: Minimum fraction of cells of a region with a patch; the fullest region is always kept.

    Raises:
        SlideError: Coordinates are outside the slide, or not on a lattice that fits the patches.
    """
    _require_inside(slide)
    if slide.grid is not None:
        return _place_regions(slide, slide.grid)
    usable = np.arange(slide.features.shape[0]) if slide.usable is None else np.flatnonzero(slide.usable)
    if not len(usable):
        raise SlideError(
            f"all {slide.features.shape[0]:,} rows are augmented copies.",
            hint="Extract the features without augmentation.",
        )
    coords_l0 = slide.coords_l0[usable]
    lattice = find_lattice(coords_l0, slide.steps_l0, slide.patch_l0)
    cells, distance = lattice.cells(coords_l0)
    phase, whole = _without_overlap(cells, lattice.stride)
    near = distance <= tolerance * slide.patch_l0
    kept = np.flatnonzero(whole & near)
    kept = kept[_nearest_first(cells[kept], distance[kept], coords_l0[kept])]
    collisions = int((whole & near).sum()) - len(kept)
    corners, region_of, dense = _regions((cells[kept] - phase) // lattice.stride, grid, min_tissue)
    placed = kept[dense]
    within = np.mod((cells[placed] - phase) // lattice.stride, grid)
    order = np.argsort((region_of * grid + within[:, 1]) * grid + within[:, 0])
    placed, region_of, within = placed[order], region_of[order], within[order]
    report = Report(
        patches=slide.features.shape[0],
        placed=len(placed),
        augmented=slide.features.shape[0] - len(usable),
        between=int((~whole).sum()),
        off_lattice=int((whole & ~near).sum()),
        collisions=collisions,
        sparse=len(kept) - len(placed),
        shift_median_l0=float(np.median(distance[placed])),
        shift_max_l0=float(distance[placed].max()),
    )
    pitch_l0 = lattice.step_l0 * lattice.stride
    return Placement(
        coords_l0=_corners_l0(corners * grid, phase, lattice),
        region_l0=round(grid * pitch_l0),
        grid=grid,
        starts=np.searchsorted(region_of, np.arange(len(corners) + 1)),
        source=usable[placed],
        rows=within[:, 1],
        columns=within[:, 0],
        report=report,
    )


def _place_regions(slide: SlideFeatures, grid: int) -> Placement:
    """Keep whole regions unchanged, sorted by position, which may be anywhere."""
    corners = np.round(slide.coords_l0).astype(np.int64)
    order = np.lexsort((corners[:, 0], corners[:, 1]))
    cells = grid * grid
    rows, columns = np.divmod(np.tile(np.arange(cells), len(order)), grid)
    count = len(order) * cells
    return Placement(
        coords_l0=corners[order],
        region_l0=round(grid * slide.patch_l0),
        grid=grid,
        starts=np.arange(len(order) + 1) * cells,
        source=(order[:, None] * cells + np.arange(cells)).ravel(),
        rows=rows,
        columns=columns,
        report=Report(patches=count, placed=count),
    )


def _require_inside(slide: SlideFeatures) -> None:
    limit = np.minimum(slide.size_l0 or (np.inf, np.inf), _LARGEST_SIDE_L0)
    outside = np.flatnonzero(((slide.coords_l0 < 0) | (slide.coords_l0 >= limit)).any(axis=1))
    if len(outside):
        some = ", ".join(f"({x:g}, {y:g})" for x, y in slide.coords_l0[outside[:_LISTED]])
        size = f"{limit[0]:,.0f} x {limit[1]:,.0f} px" if slide.size_l0 else f"0 to {_LARGEST_SIDE_L0:,}"
        raise SlideError(
            f"{len(outside):,} of {count(len(slide.coords_l0), 'coordinate')} {agree(len(outside), 'is', 'are')} "
            f"outside the slide: {some}, allowed: {size} (level 0).",
            hint="The coordinates may belong to another slide, or be in another unit.",
        )


def _without_overlap(cells: Integers, stride: int) -> tuple[Integers, Booleans]:
    """Choose every `stride`-th column and row so that most patches are kept; return the offset, and which are kept."""
    classes = np.mod(cells, stride)
    counts = np.bincount(classes[:, 0] * stride + classes[:, 1], minlength=stride * stride)
    phase = np.array(divmod(int(counts.argmax()), stride))
    return phase, (classes == phase).all(axis=1)


def _nearest_first(cells: Integers, distance: Floats, coords_l0: Floats) -> Integers:
    """Return the index of one patch per cell: the nearest, independent of the order of rows."""
    keys = _keys(cells)
    if np.diff(np.sort(keys)).all():
        return np.arange(len(keys))
    order = np.lexsort((coords_l0[:, 0], coords_l0[:, 1], distance, keys))
    first = np.ones(len(order), np.bool_)
    first[1:] = np.diff(keys[order]) != 0
    return order[first]


def _regions(cells: Integers, grid: int, min_tissue: float) -> tuple[Integers, Integers, Booleans]:
    """Group cells into regions and drop those with too few.

    Returns:
        Columns and rows of the kept regions, (R, 2), row-major; the region of each kept cell; which cells are kept.
    """
    regions = cells // grid
    _, first, inverse, counts = np.unique(_keys(regions), return_index=True, return_inverse=True, return_counts=True)
    enough = (counts >= min_tissue * grid * grid) | (counts == counts.max())
    number = np.cumsum(enough) - 1
    dense = enough[inverse]
    return regions[first[enough]], number[inverse][dense], dense


def _keys(cells: Integers) -> Integers:
    """Return a number for each cell, (N,), ascending in row-major order."""
    low = cells.min(axis=0)
    keys: Integers = (cells[:, 1] - low[1]) * (np.ptp(cells[:, 0]) + 1) + cells[:, 0] - low[0]
    return keys


def _corners_l0(first_cells: Integers, phase: Integers, lattice: PatchLattice) -> Integers:
    """Return the top-left corners of regions, level-0 px, given their first cells in units of `stride`."""
    steps = first_cells * lattice.stride + phase
    return np.round(steps * lattice.step_l0 + (lattice.x_l0, lattice.y_l0)).astype(np.int64)
