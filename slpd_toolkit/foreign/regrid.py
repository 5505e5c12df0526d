"""From patches with coordinates to regions with grids: which patch goes into which cell of which region. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
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
"""No slide is as wide, and cells are counted in 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """How many patches found a place, and why the others did not; distances in level-0 px."""

    patches: int
    placed: int
    augmented: int = 0
    """Left out: augmented copies of others."""
    between: int = 0
    """Left out: overlapping patches, of which every so many are taken."""
    off_lattice: int = 0
    """Left out: farther from their cell than the tolerance."""
    collisions: int = 0
    """Left out: a nearer patch has the cell."""
    sparse: int = 0
    """Left out: in regions with too few patches."""
    shift_median_l0: float = 0.0
    """Half of the placed patches were moved by at most this to their cell, along x or y."""
    shift_max_l0: float = 0.0

    @property
    def left_out(self) -> int:
        """Patches without a place."""
        return self.patches - self.placed


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Regions, row-major, and the cell of each placed patch, in the order of the regions."""

    coords_l0: Integers
    """(R, 2), x and y of the regions' top-left corners."""
    region_l0: int
    grid: int
    starts: Integers
    """(R + 1,), the patches of region r are starts[r] to starts[r + 1]."""
    source: Integers
    """(P,) rows of the features."""
    rows: Integers
    """(P,) grid rows."""
    columns: Integers
    """(P,) grid columns."""
    report: Report

    def __len__(self) -> int:
        return len(self.coords_l0)

    @property
    def present(self) -> Booleans:
        """(R, grid, grid), which cells have a patch."""
        present = np.zeros((len(self), self.grid, self.grid), np.bool_)
        present[np.repeat(np.arange(len(self)), np.diff(self.starts)), self.rows, self.columns] = True
        return present


def place(slide: SlideFeatures, *, grid: int, tolerance: float, min_tissue: float) -> Placement:
    """Assign every patch of a slide to a cell, or record why it has none.

    Args:
        slide: What was read.
        grid: Patches along a region's side.
        tolerance: How far a patch may lie from its cell along x or y, in patch sides; above 0, at most 0.5.
        min_tissue: Keep regions of whose cells at least this share has a patch, and the fullest in any case.

    Raises:
        SlideError: Coordinates lie outside the slide, or on no lattice that fits the patches.
    """
    _require_inside(slide)
    if slide.grid is not None:
        return _place_regions(slide, slide.grid)
    usable = np.arange(slide.features.shape[0]) if slide.usable is None else np.flatnonzero(slide.usable)
    if not len(usable):
        raise SlideError(f"all {slide.features.shape[0]:,} rows are augmented copies.", hint="Extract without them.")
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
    """Take regions as they are, sorted by where they lie; their tool may have laid them anywhere."""
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
            f"{len(outside):,} of {len(slide.coords_l0):,} coordinates lie outside the slide: {some}, allowed: {size} "
            "(level 0).",
            hint="Are the coordinates of another slide, or in another unit?",
        )


def _without_overlap(cells: Integers, stride: int) -> tuple[Integers, Booleans]:
    """Choose every `stride`-th column and row, from where it keeps most patches: the beginning, and who is kept."""
    classes = np.mod(cells, stride)
    counts = np.bincount(classes[:, 0] * stride + classes[:, 1], minlength=stride * stride)
    phase = np.array(divmod(int(counts.argmax()), stride))
    return phase, (classes == phase).all(axis=1)


def _nearest_first(cells: Integers, distance: Floats, coords_l0: Floats) -> Integers:
    """Indices of one patch a cell: the nearest, whatever the order of the rows."""
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
        Columns and rows of the regions kept, (R, 2), row-major; the region of each cell kept; which cells are kept.
    """
    regions = cells // grid
    _, first, inverse, counts = np.unique(_keys(regions), return_index=True, return_inverse=True, return_counts=True)
    enough = (counts >= min_tissue * grid * grid) | (counts == counts.max())
    number = np.cumsum(enough) - 1
    dense = enough[inverse]
    return regions[first[enough]], number[inverse][dense], dense


def _keys(cells: Integers) -> Integers:
    """A number for each cell, (N,), ascending row-major."""
    low = cells.min(axis=0)
    keys: Integers = (cells[:, 1] - low[1]) * (np.ptp(cells[:, 0]) + 1) + cells[:, 0] - low[0]
    return keys


def _corners_l0(first_cells: Integers, phase: Integers, lattice: PatchLattice) -> Integers:
    """Top-left corners of regions, level-0 px, whose first patch lies in these of every `stride`-th cells."""
    steps = first_cells * lattice.stride + phase
    return np.round(steps * lattice.step_l0 + (lattice.x_l0, lattice.y_l0)).astype(np.int64)
