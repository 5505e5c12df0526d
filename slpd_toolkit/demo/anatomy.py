"""Anatomy of a tissue section, from its outline to the position of every nucleus, in micrometers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

from slpd_toolkit.demo.architectures import Architecture, Fields, Kind, arrange
from slpd_toolkit.demo.fields import Cells, cells, rank, smooth
from slpd_toolkit.demo.nuclei import Cell, Nuclei, make_nuclei

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from slpd_toolkit.demo.fields import Floats

    T = TypeVar("T", bound=np.generic)

MAP_UM = 2.0
"""Side of a map pixel."""
COARSE = 4
"""Side of a pixel of the coarse maps, in map pixels; coarse maps vary over hundreds of um."""
REGION_UM = 512.0
"""Side of the squares to which architectures are assigned, and of the regions of the demo."""

COVERAGE = (0.52, 0.70)
"""Minimum and maximum fraction of a slide that is tissue."""

FAT_UM, FAT_SIDE = 58.0, 512
"""Distance between fat cells, and side in map pixels of the torus on which they are arranged."""
TUMOUR_PITCH_PX, TUMOUR_SIDE = 14, 1008
"""Distance between tumor cells, and side of the torus on which they are arranged, level-0 pixels."""


class Glands(NamedTuple):
    """Glands: closed curves around a lumen, given as radius per angle."""

    x_um: Floats
    y_um: Floats
    outer_um: Floats
    """(N, angles) from the center to the basement membrane."""
    inner_um: Floats
    """(N, angles) from the center to the lumen."""

    def curve(self, radius_um: Floats) -> Floats:
        """Return the points of a curve around each center, (N, angles, 2), um."""
        theta = np.arange(radius_um.shape[1]) * (2 * np.pi / radius_um.shape[1])
        x = self.x_um[:, None] + radius_um * np.cos(theta)
        y = self.y_um[:, None] + radius_um * np.sin(theta)
        return np.stack([x, y], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Anatomy:
    """A tissue section."""

    kinds: npt.NDArray[np.uint8]
    """(H, W) map of `Kind`."""
    architecture: npt.NDArray[np.uint8]
    """(H, W) map of `Architecture`, 0 on glass."""
    drift_um: Floats
    """(h, w, 2) coarse map: x and y displacement to the position in the undeformed fiber texture."""
    nuclei: Mapping[Cell, Nuclei]
    fat_gap_um: Floats
    """(H, W) map of the distance to the nearest border of a fat cell, also outside fat."""


@cache
def fat_cells() -> Cells:
    """Return the fat cells, shared by all slides, each of which uses another offset on the torus."""
    return cells(np.random.default_rng(11), FAT_SIDE, round(FAT_SIDE * MAP_UM / FAT_UM), 0.42)


@cache
def tumour_cells() -> Cells:
    """Return the borders and centers of tumor cells."""
    return cells(np.random.default_rng(12), TUMOUR_SIDE, TUMOUR_SIDE // TUMOUR_PITCH_PX, 0.36)


def grow(
    rng: np.random.Generator, planted: npt.NDArray[np.uint8], tissue: npt.NDArray[np.bool_], mpp: float
) -> Anatomy:
    """Generate a section.

    Args:
        rng: Random generator of everything that is not planted.
        planted: (rows, columns) architecture of each square of `REGION_UM`.
        tissue: (H, W) tissue mask.
        mpp: um/px at level 0, for textures that are aligned with pixels.
    """
    shape = tissue.shape
    architecture = _enlarge(rng, planted, shape)
    architecture[~tissue] = 0
    fields = Fields(
        blobs=rank(smooth(rng, shape, 95 / MAP_UM) + 0.25 * smooth(rng, shape, 24 / MAP_UM)),
        strands=_strands(rng, shape),
        clumps=rank(smooth(rng, shape, 150 / MAP_UM) + 0.2 * smooth(rng, shape, 30 / MAP_UM)),
        detail=rank(smooth(rng, shape, 20 / MAP_UM)),
    )
    kinds, scattered = arrange(architecture, fields)
    offset_x, offset_y = (int(value) for value in rng.integers(0, FAT_SIDE, 2))
    gap = _fill_with_fat(kinds, (offset_x, offset_y))
    glands = _place_glands(rng, architecture, kinds)
    _draw_glands(kinds, glands)
    drift = _drift(rng, shape)
    return Anatomy(
        kinds=kinds,
        architecture=architecture,
        drift_um=drift,
        nuclei={
            Cell.TUMOUR: _tumour_nuclei(rng, kinds, mpp),
            Cell.LYMPHOCYTE: _lymphocytes(rng, kinds, scattered),
            Cell.FIBROBLAST: _fibroblasts(rng, kinds, drift, gap),
            Cell.EPITHELIUM: _gland_nuclei(rng, glands, kinds),
        },
        fat_gap_um=gap,
    )


def outline(rng: np.random.Generator, shape: tuple[int, int], squares_um: float = REGION_UM) -> npt.NDArray[np.bool_]:
    """Draw the tissue mask of a section, (H, W): irregular, with torn edges and a few clefts."""
    height, width = shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    power = rng.uniform(2.0, 3.2)
    inside = -((np.abs(u) / rng.uniform(0.86, 0.95)) ** power) - (np.abs(v) / rng.uniform(0.78, 0.92)) ** power
    inside -= 7 * np.maximum(
        np.maximum(np.abs(x), np.abs(y)) - 0.86, 0
    )  # avoids straight edges at the border of the slide
    ragged = 0.30 * smooth(rng, shape, squares_um / MAP_UM) + 0.07 * smooth(rng, shape, 90 / MAP_UM)
    frayed = 0.025 * smooth(rng, shape, 24 / MAP_UM)
    field = inside + ragged + frayed
    tissue = field > np.quantile(field[::4, ::4], 1 - rng.uniform(*COVERAGE))
    cleft = (np.abs(smooth(rng, shape, 420 / MAP_UM)) < 0.014) & (smooth(rng, shape, 300 / MAP_UM) > 0.7)
    margin = round(60 / MAP_UM)
    tissue &= ~cleft
    tissue[:margin] = tissue[-margin:] = False
    tissue[:, :margin] = tissue[:, -margin:] = False
    return _without_specks(tissue)


def at(field: npt.NDArray[T], x_um: Floats, y_um: Floats, pixel_um: float = MAP_UM) -> npt.NDArray[T]:
    """Return the values of a map at the given positions; positions beyond its edge get the value at the edge."""
    row = np.clip((y_um / pixel_um).astype(np.intp), 0, field.shape[0] - 1)
    column = np.clip((x_um / pixel_um).astype(np.intp), 0, field.shape[1] - 1)
    return field[row, column]


def _without_specks(tissue: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(tissue.view(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] * MAP_UM**2 > 0.05e6
    large[0] = False
    kept: npt.NDArray[np.bool_] = large[labels] if count > 1 else tissue
    return kept


def _enlarge(rng: np.random.Generator, planted: npt.NDArray[np.uint8], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Enlarge the planted squares to a map in which they meet along wavy lines."""
    side, reach = REGION_UM / MAP_UM, 55 / MAP_UM
    rows = (np.arange(shape[0], dtype=np.float32)[:, None] + reach * smooth(rng, shape, 190 / MAP_UM)) / side
    columns = (np.arange(shape[1], dtype=np.float32) + reach * smooth(rng, shape, 190 / MAP_UM)) / side
    row = np.clip(rows.astype(np.intp), 0, planted.shape[0] - 1)
    column = np.clip(columns.astype(np.intp), 0, planted.shape[1] - 1)
    return planted[row, column]


def _strands(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw long thin winding strands, at the zero crossings of a smooth field."""
    field = smooth(rng, shape, 120 / MAP_UM) + 0.18 * smooth(rng, shape, 34 / MAP_UM)
    slope = np.hypot(cv2.Sobel(field, -1, 1, 0, scale=1 / 8), cv2.Sobel(field, -1, 0, 1, scale=1 / 8)) * 40 / MAP_UM
    distance = np.abs(field) / (slope + 0.25)  # approximate distance to the crossing
    # Uniform by rank, because the values are far from normally distributed.
    levels = np.quantile(distance[::7, ::7], np.linspace(0, 1, 65))
    return np.asarray(1 - np.interp(distance, levels, np.linspace(0, 1, 65)), np.float32)


def _drift(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw the displacement that rotates and bends the fiber texture."""
    rows, columns = shape[0] // COARSE + 2, shape[1] // COARSE + 2
    pixel_um, turn = MAP_UM * COARSE, rng.uniform(0, np.pi)
    bends = [
        55 * smooth(rng, (rows, columns), 420 / pixel_um) + 8 * smooth(rng, (rows, columns), 75 / pixel_um)
        for _ in range(2)
    ]
    x, y = (np.arange(columns) + 0.5) * pixel_um, (np.arange(rows)[:, None] + 0.5) * pixel_um
    turned_x, turned_y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.stack([turned_x - x + bends[0], turned_y - y + bends[1]], axis=-1).astype(np.float32)


def fibre_angle(drift_um: Floats) -> Floats:
    """Return the direction of the fibers on the coarse map, radians from x: along lines of constant y + drift_y."""
    unit = MAP_UM * COARSE
    across_x = np.gradient(drift_um[..., 1], unit, axis=1)
    across_y = 1 + np.gradient(drift_um[..., 1], unit, axis=0)
    return np.asarray(np.arctan2(-across_x, across_y) % np.pi, np.float32)


def _fill_with_fat(kinds: npt.NDArray[np.uint8], offset: tuple[int, int]) -> Floats:
    """Fill areas of fat with whole fat cells; return the distance to the nearest cell border, um."""
    torus = fat_cells()
    rows = (np.arange(kinds.shape[0]) + offset[1]) % FAT_SIDE
    columns = (np.arange(kinds.shape[1]) + offset[0]) % FAT_SIDE
    to_centre = torus.centre[np.ix_(rows, columns)]
    row = np.clip(np.arange(kinds.shape[0])[:, None] + to_centre[..., 1], 0, kinds.shape[0] - 1)
    column = np.clip(np.arange(kinds.shape[1]) + to_centre[..., 0], 0, kinds.shape[1] - 1)
    fat = (kinds[row, column] == Kind.FAT) & (kinds != Kind.GLASS)
    kinds[kinds == Kind.FAT] = Kind.STROMA
    kinds[fat] = Kind.FAT
    rounded = cv2.GaussianBlur(torus.gap[np.ix_(rows, columns)], (0, 0), 1.2)  # rounds the corners of cells
    return np.asarray(np.maximum(rounded - 0.6, 0) * MAP_UM, np.float32)


def _lattice(rng: np.random.Generator, shape: tuple[int, int], pitch_um: float, jitter: float) -> tuple[Floats, Floats]:
    """Scatter points over a map, one in each square with side `pitch_um`."""
    rows, columns = int(shape[0] * MAP_UM / pitch_um), int(shape[1] * MAP_UM / pitch_um)
    x = (np.arange(columns) + 0.5 + rng.uniform(-jitter, jitter, (rows, columns))) * pitch_um
    y = (np.arange(rows)[:, None] + 0.5 + rng.uniform(-jitter, jitter, (rows, columns))) * pitch_um
    return x.ravel().astype(np.float32), y.ravel().astype(np.float32)


def _place_glands(
    rng: np.random.Generator, architecture: npt.NDArray[np.uint8], kinds: npt.NDArray[np.uint8]
) -> Glands:
    x, y = _lattice(rng, kinds.shape, 114, 0.2)
    inside = (at(architecture, x, y) == Architecture.GLANDULAR) & (at(kinds, x, y) == Kind.STROMA)
    x, y = x[inside], y[inside]
    angles = 64
    theta = np.arange(angles) * (2 * np.pi / angles)
    size = rng.uniform(30, 50, (len(x), 1))
    wobble = np.zeros((len(x), angles))
    for lobe, strength in ((2, 0.16), (3, 0.10), (5, 0.045), (7, 0.03)):
        phase, amount = rng.uniform(0, 2 * np.pi, (len(x), 1)), rng.normal(0, strength, (len(x), 1))
        wobble += amount * np.cos(lobe * theta + phase)
    outer = size * np.exp(np.clip(wobble, -0.5, 0.28))
    wall = rng.uniform(15, 20, (len(x), 1)) * (1 + 0.06 * np.cos(9 * theta + rng.uniform(0, 6, (len(x), 1))))
    return Glands(x, y, outer.astype(np.float32), np.maximum(outer - wall, 2.0).astype(np.float32))


def _draw_glands(kinds: npt.NDArray[np.uint8], glands: Glands) -> None:
    if not len(glands.x_um):
        return
    glass, shift = kinds == Kind.GLASS, 4
    for radius, kind in ((glands.outer_um, Kind.EPITHELIUM), (glands.inner_um, Kind.LUMEN)):
        points = np.round((glands.curve(radius) / MAP_UM - 0.5) * 2**shift).astype(np.int32)
        for curve in points:  # a single call would leave out overlaps
            cv2.fillPoly(kinds, [curve], int(kind), shift=shift)
    kinds[glass] = Kind.GLASS


def _gland_nuclei(rng: np.random.Generator, glands: Glands, kinds: npt.NDArray[np.uint8]) -> Nuclei:
    """Place nuclei along the basement membrane, each pointing to the lumen."""
    if not len(glands.x_um):
        return make_nuclei(rng, np.zeros(0, np.float32), np.zeros(0, np.float32))
    angles = glands.outer_um.shape[1]
    depth = rng.normal(6.4, 1.5, glands.outer_um.shape).astype(np.float32)
    points = glands.curve(glands.outer_um - depth)
    # One nucleus every 5.6 um along the curve: choose the angles at which the arc length reaches a multiple of that.
    edge = glands.curve(glands.outer_um - 6.2)
    steps = np.linalg.norm(np.diff(edge, axis=1, append=edge[:, :1]), axis=-1)
    crossed = np.diff(np.floor(np.cumsum(steps, axis=1) / 5.6), axis=1, prepend=0) > 0
    theta = np.broadcast_to(np.arange(angles) * (2 * np.pi / angles), crossed.shape)
    x, y = points[crossed].T
    angle = (theta[crossed] + rng.normal(0, 0.12, int(crossed.sum()))) % np.pi
    inside = at(kinds, x, y) == Kind.EPITHELIUM
    return make_nuclei(rng, x[inside], y[inside], angle[inside].astype(np.float32))


def _tumour_nuclei(rng: np.random.Generator, kinds: npt.NDArray[np.uint8], mpp: float) -> Nuclei:
    """Place one nucleus in each tumor cell, slightly off its center."""
    points, period = tumour_cells().points * mpp, TUMOUR_SIDE * mpp
    height, width = kinds.shape[0] * MAP_UM, kinds.shape[1] * MAP_UM
    tile_y, tile_x = np.mgrid[0 : np.ceil(height / period), 0 : np.ceil(width / period)] * period
    x = (points[:, 0] + tile_x.reshape(-1, 1)).ravel()
    y = (points[:, 1] + tile_y.reshape(-1, 1)).ravel()
    x, y = x + rng.normal(0, 0.9, x.shape), y + rng.normal(0, 0.9, y.shape)
    inside = (at(kinds, x, y) == Kind.TUMOUR) & (rng.random(x.shape) < 0.93)
    return make_nuclei(rng, x[inside], y[inside])


def _lymphocytes(rng: np.random.Generator, kinds: npt.NDArray[np.uint8], scattered: Floats) -> Nuclei:
    x, y = _lattice(rng, kinds.shape, 7.6, 0.36)
    kind, chance = at(kinds, x, y), at(scattered, x, y).astype(np.float32)
    chance[kind == Kind.LYMPHOID] = 0.88
    chance[(kind == Kind.FAT) | (kind == Kind.LUMEN) | (kind == Kind.EPITHELIUM)] = 0
    inside = rng.random(x.shape) < chance
    return make_nuclei(rng, x[inside], y[inside])


def _fibroblasts(rng: np.random.Generator, kinds: npt.NDArray[np.uint8], drift_um: Floats, gap_um: Floats) -> Nuclei:
    """Place spindle cells along the fibers, and a few between fat cells."""
    x, y = _lattice(rng, kinds.shape, 15.5, 0.45)
    kind = at(kinds, x, y)
    chance = np.where(kind == Kind.STROMA, 0.42, 0.0)
    chance[kind == Kind.LYMPHOID] = 0.10
    chance[(kind == Kind.FAT) & (at(gap_um, x, y) < 2)] = 0.3
    inside = rng.random(x.shape) < chance
    x, y = x[inside], y[inside]
    angle = at(fibre_angle(drift_um), x, y, MAP_UM * COARSE) + rng.normal(0, 0.2, x.shape)
    return make_nuclei(rng, x, y, (angle % np.pi).astype(np.float32))
