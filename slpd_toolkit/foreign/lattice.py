"""Finding the lattice of patches: its step, its origin, and the distance of each patch from its cell.

Some tools use one lattice per slide; others start a new one at each piece of tissue, or add jitter. The lattice of most
patches is chosen for the slide, and all other patches are moved to its nearest cells. A piece of tissue moves as a
whole, by less than half a patch, so that neighbors stay neighbors; two patches can compete for a cell only where two
pieces meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

STEP_WITHIN = 0.05
"""Maximum relative difference between the measured distance of neighbors and a stated step."""

_WHOLE_WITHIN = 0.02
_FEW_NEIGHBOURS = 8  # with fewer pairs, larger distances may be due to chance
_LARGEST_STRIDE = 16
_LARGEST_MAP = 1 << 26  # cells
_PHASE_BINS = 64  # along a step
_GAP_BINS = 100  # along a step
_ON_LATTICE = 0.02  # fraction of a step: tolerance when two interpretations of the step are compared
_CLEARLY_BETTER = 0.05  # fraction of the patches


@dataclass(frozen=True)
class PatchLattice:
    """Cells of `step_l0` with origin (`x_l0`, `y_l0`); patches without overlap are `stride` cells apart.

    The origin is within half a step of that of the slide.
    """

    step_l0: float
    x_l0: float
    y_l0: float
    stride: int = 1

    def cells(self, coords_l0: Floats) -> tuple[Integers, Floats]:
        """Find the nearest cell of each patch.

        Returns:
            Columns and rows, (N, 2), and the distance of each patch from its cell: the larger of those along x and y,
            (N,), level-0 px.
        """
        relative = coords_l0 - (self.x_l0, self.y_l0)
        cells = np.floor(relative / self.step_l0 + 0.5)
        return cells.astype(np.int64), np.abs(relative - cells * self.step_l0).max(axis=1)


def find_lattice(coords_l0: Floats, steps_l0: tuple[float, ...], patch_l0: float) -> PatchLattice:
    """Find the lattice of most patches.

    Args:
        coords_l0: (N, 2) x and y of top-left corners, N >= 1.
        steps_l0: Possible distances of neighboring patches according to the files; the one that the coordinates confirm
            is used.
        patch_l0: Side of a patch. If patches overlap and the side is a whole number n of steps, every n-th patch is on
            a lattice without overlap.

    Raises:
        SlideError: The distance of neighboring patches differs from all stated ones, for example because coordinates
            are in another unit; or the side of a patch is not a whole number of steps.
    """
    if steps_l0[0] == patch_l0:
        plain = _plain_lattice(coords_l0, patch_l0)
        if plain:
            return plain
    step = _confirmed_step(coords_l0, steps_l0)
    stride = patch_l0 / step
    if abs(stride - round(stride)) > _WHOLE_WITHIN * stride or not 1 <= round(stride) <= _LARGEST_STRIDE:
        raise SlideError(
            f"patches of {patch_l0:g} px are {step:g} px apart (level 0): their side is {stride:.3g} steps, "
            "allowed: a whole number.",
            hint="Extract the features without overlap, or with an overlap of 1/2, 2/3 or 3/4 of a patch.",
        )
    x_l0, y_l0 = _origin(coords_l0, step)
    return PatchLattice(step, x_l0, y_l0, round(stride))


def _plain_lattice(coords_l0: Floats, step_l0: float) -> PatchLattice | None:
    """Return the lattice directly if all patches are exactly on it without overlap, as in most files."""
    origin = np.mod(coords_l0[0] + step_l0 / 2, step_l0) - step_l0 / 2
    lattice = PatchLattice(step_l0, float(origin[0]), float(origin[1]))
    cells, distance = lattice.cells(coords_l0)
    if distance.max() > 0 or (np.ptp(cells, axis=0) + 1).prod() > _LARGEST_MAP:
        return None
    occupied = np.zeros(np.ptp(cells, axis=0) + 1, np.bool_)
    occupied[tuple((cells - cells.min(axis=0)).T)] = True
    pairs = (occupied[1:] & occupied[:-1]).sum() + (occupied[:, 1:] & occupied[:, :-1]).sum()
    return lattice if pairs >= len(coords_l0) / 2 else None


def _confirmed_step(coords_l0: Floats, steps_l0: tuple[float, ...]) -> float:
    """Choose the stated step that neighbors confirm, and replace it by the measured one if patches drift."""
    gaps = np.concatenate([neighbour_gaps(coords_l0, axis, min(steps_l0)) for axis in (0, 1)])
    if not len(gaps):
        return steps_l0[0]
    usual = _mode(gaps, min(steps_l0) / _GAP_BINS)
    for step in steps_l0:
        if abs(usual / step - 1) <= STEP_WITHIN:
            near = gaps[np.abs(gaps / step - 1) <= 2 * STEP_WITHIN]
            return _better_step(coords_l0, step, float(near.mean()))
    multiple = usual / steps_l0[0]
    if len(gaps) < _FEW_NEIGHBOURS and abs(multiple - round(multiple)) < STEP_WITHIN:
        return steps_l0[0]  # a few scattered patches
    stated = " or ".join(f"{step:g}" for step in dict.fromkeys(steps_l0))
    raise SlideError(
        f"neighboring patches are {usual:g} apart, but {stated} according to the files (level-0 px).",
        hint="The coordinates may be in another unit (um, or px of another level), or belong to other features. Check "
        "--coords, --mpp and --target-mpp.",
    )


def neighbour_gaps(coords_l0: Floats, axis: int, step_l0: float) -> Floats:
    """Return the distances along an axis between consecutive patches on a line of the lattice."""
    line = np.round(coords_l0[:, 1 - axis] * (8 / step_l0))
    order = np.lexsort((coords_l0[:, axis], line))
    gaps: Floats = np.diff(coords_l0[order, axis])
    near: Floats = gaps[(np.diff(line[order]) == 0) & (gaps > step_l0 / _GAP_BINS)]
    return near


def _mode(values: Floats, bin_width: float) -> float:
    """Return the mean of the values in the most populated bin, the first one in a tie."""
    bins = np.round(values / bin_width).astype(np.int64)
    found, counts = np.unique(bins, return_counts=True)
    return float(values[bins == found[counts.argmax()]].mean())


def _better_step(coords_l0: Floats, stated: float, measured: float) -> float:
    """Return the measured step only if it places clearly more patches on the lattice than the stated one."""
    shares = []
    for step in (stated, measured):
        _, distance = PatchLattice(step, *_origin(coords_l0, step)).cells(coords_l0)
        shares.append(float((distance <= _ON_LATTICE * step).mean()))
    return measured if shares[1] > shares[0] + _CLEARLY_BETTER else stated


def _origin(coords_l0: Floats, step_l0: float) -> tuple[float, float]:
    """Return the origin of the lattice of most patches, -step/2 to step/2 on both axes."""
    remainders = np.mod(coords_l0, step_l0)
    bins = np.floor(remainders * (_PHASE_BINS / step_l0)).astype(np.int64) % _PHASE_BINS
    found, counts = np.unique(bins[:, 0] * _PHASE_BINS + bins[:, 1], return_counts=True)
    centre = (np.array(divmod(int(found[counts.argmax()]), _PHASE_BINS)) + 0.5) * (step_l0 / _PHASE_BINS)
    offsets = np.mod(remainders - centre + step_l0 / 2, step_l0) - step_l0 / 2
    near = (np.abs(offsets) <= step_l0 / _PHASE_BINS).all(axis=1)
    origin = np.mod(centre + np.median(offsets[near], axis=0) + step_l0 / 2, step_l0) - step_l0 / 2
    return float(origin[0]), float(origin[1])
