"""Random fields: smooth noise on a plane and on a torus, and Voronoi cells of scattered points."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats: TypeAlias = npt.NDArray[np.float32]


def smooth(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> Floats:
    """Draw noise that varies over `wavelength` pixels: (H, W), with mean about 0 and standard deviation about 1."""
    height, width = shape
    knots = rng.normal(size=(int(height / wavelength) + 4, int(width / wavelength) + 4)).astype(np.float32)
    size = (round(knots.shape[1] * wavelength), round(knots.shape[0] * wavelength))
    field = np.asarray(cv2.resize(knots, size, interpolation=cv2.INTER_CUBIC), np.float32)
    top, left = round(wavelength), round(wavelength)
    field = field[top : top + height, left : left + width]
    return np.asarray(field / field.std(), np.float32)


def rank(field: Floats) -> Floats:
    """Map an approximately normal field to a uniform one over 0 to 1, so that `rank(f) > 0.7` for about 30 % of it."""
    centred = (field - field.mean()) / field.std()
    return np.asarray(ndtr(centred), np.float32)


def torus(rng: np.random.Generator, side: int, wavelength_y: float, wavelength_x: float) -> Floats:
    """Draw periodic noise, (side, side), with a separate wavelength along each axis."""
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    spectrum = np.exp(-2 * ((y * wavelength_y) ** 2 + (x * wavelength_x) ** 2)).astype(np.float32)
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * spectrum, s=(side, side))
    return np.asarray(field / field.std(), np.float32)


class Cells(NamedTuple):
    """Voronoi cells of evenly scattered points on a torus."""

    points: Floats
    """(N, 2) x and y of the points, px."""
    gap: Floats
    """(side, side) approximate distance to the nearest cell border, px."""
    centre: npt.NDArray[np.int32]
    """(side, side, 2) x and y from each pixel to the point of its cell, px."""


def cells(rng: np.random.Generator, side: int, across: int, jitter: float) -> Cells:
    """Scatter `across` x `across` points on a torus, one per square of a lattice, and find the cell of every pixel.

    Args:
        rng: Random generator of the points.
        side: Side of the torus, px.
        across: Number of points along a side.
        jitter: Maximum distance of a point from the center of its square, in squares; 0 gives a lattice.
    """
    pitch = side / across
    squares = np.arange(across) + 0.5
    x = np.asarray((squares + rng.uniform(-jitter, jitter, (across, across))) * pitch, np.float32)
    y = np.asarray((squares[:, None] + rng.uniform(-jitter, jitter, (across, across))) * pitch, np.float32)
    pixel = np.arange(side, dtype=np.float32)
    square = (pixel / pitch).astype(np.intp)
    nearest = np.full((side, side), np.inf, np.float32)
    second = nearest.copy()
    centre = np.zeros((side, side, 2), np.int32)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            # Points beyond an edge are those of the opposite side, shifted by one period.
            turn_x, turn_y = (square + column) // across * side, (square + row) // across * side
            at = np.ix_((square + row) % across, (square + column) % across)
            dx = x[at] + (turn_x - pixel).astype(np.float32)
            dy = y[at] + (turn_y - pixel).astype(np.float32)[:, None]
            distance = np.sqrt(dx * dx + dy * dy)
            closer = distance < nearest
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
            centre[..., 0][closer], centre[..., 1][closer] = dx[closer], dy[closer]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return Cells(points, np.asarray((second - nearest) / 2, np.float32), centre)
