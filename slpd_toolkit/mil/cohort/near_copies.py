"""Slides whose embeddings are closer than any two different slides of the cohort: one slide under several names.

Copies that were read again, recompressed or embedded with other arithmetic are not bit-identical. They can be
recognized by their isolation: a copy is several times as close to its copies as to any other slide, whatever the scale
of the embedding. Two measures must agree, because slides that look alike (pale, small) are isolated in the few features
that dominate a correlation, but not once all directions of the embedding have equal variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.text import agree, count, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags

FEWEST_SLIDES = 20
_LARGEST_GROUP = 8
_LEAST_RATIO = 1.75
_LEAST_WHITENED_RATIO = 1.1
_LARGEST_SHARE = 0.6
_LARGEST_WHITENED_SHARE = 0.75
_SLIDES_PER_DIRECTION = 4
_BLOCK = 256
_DRAWN = 1024
"""Number of slides from which the typical distance is estimated."""
_LEADING = 64
"""Directions that bound distances."""
_BOX = 256


@dataclass(frozen=True)
class NearCopies:
    """Slides that are closer to one another than any two different slides of the cohort are."""

    slides: tuple[str, ...]
    """Sorted."""
    correlation: float
    """Smallest correlation between the mean embeddings of two of them."""
    nearest_other: float
    """Largest correlation between one of them and any other slide."""
    typical: float
    """Median over all slides of the correlation with the nearest slide."""

    @property
    def description(self) -> str:
        """The slides, with the figures that make them near-copies."""
        return (
            f"{listed(self.slides)} (r of at least {self.correlation:.6f} with one another, at most "
            f"{self.nearest_other:.6f} with any other slide, typically {self.typical:.6f} with the nearest slide)"
        )


def find_near_copies(bags: Bags) -> list[NearCopies]:
    """Find groups of two to eight slides that are isolated from all others.

    Distances are sqrt(1 - r) between mean embeddings. A group counts if the nearest other slide is at least 1.75 times
    as far away as its members are from one another, if its members are closer than 0.6 times the median distance to a
    nearest slide, and if it is isolated by a factor of 1.1 and closer than 0.75 times the median as well where the
    directions of most variance, one per four slides, are scaled to equal variance.

    Args:
        bags: All slides of the evaluation. With fewer than 20 slides, no groups are reported.

    Returns:
        The most isolated groups first. Bit-identical slides count as well.
    """
    if len(bags.slides) < FEWEST_SLIDES:
        return []
    means = bags.mean().astype(np.float64)
    unit, varies = _unit_rows(means)
    typical = _typical_distance(unit)
    groups = [
        group
        for group in _isolated_groups(*nearest_within(unit, _LARGEST_GROUP, _LARGEST_SHARE * typical, _LEAST_RATIO))
        if varies[list(group)].all() and _distances(unit, np.array(group)).max() <= _LARGEST_SHARE * typical
    ]
    if not groups:
        return []
    whitened = _whiten(means)
    squares, whitened_squares = ((rows**2).sum(axis=1) for rows in (unit, whitened))
    closest = _LARGEST_WHITENED_SHARE * _typical_distance(whitened)
    found = []
    for group in groups:
        members = np.array(group)
        inside, outside = _inside_and_outside(whitened, members, whitened_squares)
        if outside < _LEAST_WHITENED_RATIO * inside or inside > closest:
            continue
        within, nearest = _inside_and_outside(unit, members, squares)
        names = tuple(sorted(bags.slides[index] for index in group))
        found.append((within / max(nearest, 1e-12), NearCopies(names, *(1 - d**2 for d in (within, nearest, typical)))))
    return [copies for _, copies in sorted(found, key=lambda each: (each[0], each[1].slides))]


def near_copy_notes(copies_of: Mapping[str, Sequence[NearCopies]]) -> list[str]:
    """Note near-copies of each model, whether or not a split separates them: they count as different slides.

    Args:
        copies_of: From `find_near_copies`, by the name of the model. Models with the same groups share a note.
    """
    models: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for model, found in copies_of.items():
        if found:
            models.setdefault(tuple(sorted(each.slides for each in found)), []).append(model)
    return [
        f"{count(len(groups), 'group')} of slides {agree(len(groups), 'consists', 'consist')} of near-copies of one "
        f"another in {listed(names)}, such as {copies_of[names[0]][0].description}. Keep one slide per "
        "group, unless their sections really differ."
        for groups, names in models.items()
    ]


def _unit_rows(means: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Rows scaled so that half their squared distance is 1 - r, and which rows vary at all."""
    centred = means - means.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    varies = norms[:, 0] > 0
    scaled: FloatArray = centred / np.where(norms > 0, norms, 1) / np.sqrt(2)
    return scaled, varies


def _typical_distance(rows: FloatArray) -> float:
    """Median distance to the nearest other row, of at most 1 024 rows drawn at random, so that time is linear."""
    count = len(rows)
    drawn = np.arange(count) if count <= _DRAWN else np.random.default_rng(0).choice(count, _DRAWN, replace=False)
    nearest = np.empty(len(drawn))
    for start in range(0, len(drawn), _BLOCK):
        block = drawn[start : start + _BLOCK]
        squared = _squared_distances(rows[block], rows)
        squared[np.arange(len(block)), block] = np.inf
        nearest[start : start + _BLOCK] = squared.min(axis=1)
    return float(np.median(np.sqrt(nearest)))


def nearest_within(rows: FloatArray, count: int, radius: float, ratio: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Find the nearest other rows of the rows that have any within a radius.

    Exact, and not quadratic in practice: rows are divided into boxes of neighbors along their principal directions, and
    boxes that are too far apart are not compared. The most important directions bound distances from below, and only
    pairs within the bound are compared in all directions.

    Args:
        rows: (n, D).
        count: Number of neighbors, K.
        radius: Distance within which a row must have a neighbor.
        ratio: Neighbors up to this times the radius are reported; further ones are infinitely far.

    Returns:
        (m,) the rows, sorted; (m, K) their nearest other rows and the distances to them, sorted by distance.
    """
    furthest = ratio * radius * (1 + 1e-6)  # of a pair; rounding must not separate it
    count = min(count, len(rows) - 1)
    rotated = _principal_coordinates(rows)
    leading = np.ascontiguousarray(rotated[:, :_LEADING])
    boxes = _boxes(leading)
    lows, highs = (np.stack([bound(leading[box], axis=0) for box in boxes]) for bound in (np.min, np.max))
    found: list[tuple[int, IntArray, FloatArray]] = []
    for number, box in enumerate(boxes):
        apart = np.maximum(0, np.maximum(lows - highs[number], lows[number] - highs))
        near = np.concatenate([boxes[other] for other in np.flatnonzero((apart**2).sum(axis=1) <= furthest**2)])
        bounds = _squared_distances(leading[box], leading[near])
        bounds[box[:, None] == near[None, :]] = np.inf
        slack = 1e-12 * float((leading[near] ** 2).sum(axis=1).max())
        for place in np.flatnonzero(bounds.min(axis=1) <= radius**2 + slack).tolist():
            row, others = int(box[place]), near[bounds[place] <= furthest**2 + slack]
            distances = np.linalg.norm(rotated[others] - rotated[row], axis=1)
            order = np.argsort(distances, kind="stable")[:count]
            if not len(order) or distances[order[0]] > radius:
                continue
            neighbours, exact = np.full(count, -1, np.int64), np.full(count, np.inf)
            neighbours[: len(order)], exact[: len(order)] = others[order], distances[order]
            found.append((row, neighbours, exact))
    found.sort(key=lambda each: each[0])
    neighbours_of = np.array([each[1] for each in found], np.int64).reshape(-1, count)
    distances_of = np.array([each[2] for each in found], np.float64).reshape(-1, count)
    return np.array([each[0] for each in found], np.int64), neighbours_of, distances_of


def _principal_coordinates(rows: FloatArray) -> FloatArray:
    """Rotate rows to their principal directions, the most important first; distances stay the same."""
    centred = rows - rows.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    rotated: FloatArray = centred @ directions[:, ::-1]
    return rotated


def _boxes(coordinates: FloatArray) -> list[IntArray]:
    """Divide rows into boxes of at most 256, at the median of their widest coordinate."""
    waiting: list[IntArray] = [np.arange(len(coordinates))]
    done: list[IntArray] = []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= _BOX:
            done.append(rows)
            continue
        values = coordinates[rows]
        order = rows[np.argsort(values[:, np.ptp(values, axis=0).argmax()], kind="stable")]
        waiting += [order[: len(order) // 2], order[len(order) // 2 :]]
    return done


def _isolated_groups(rows: IntArray, neighbours: IntArray, distances: FloatArray) -> list[tuple[int, ...]]:
    """Groups whose members name one another as nearest, with a gap to the next slide; the largest of nested groups.

    Args:
        rows: (m,) rows with near neighbors, sorted; others are in no group.
        neighbours: (m, K) their nearest other rows; -1 beyond those that are near.
        distances: (m, K) their distances; infinite beyond those that are near.
    """
    groups: list[tuple[int, ...]] = []
    place = {row: number for number, row in enumerate(rows.tolist())}
    grouped = set[int]()
    ahead = np.concatenate([distances[:, 1:], np.full((len(rows), 1), -np.inf)], axis=1)
    has_gap = np.isfinite(distances) & (ahead >= _LEAST_RATIO * np.maximum(distances, 1e-12))  # necessary, and rare
    for number in np.flatnonzero(has_gap.any(axis=1)).tolist():
        row = int(rows[number])
        if row in grouped:
            continue  # groups are nested or apart, and the largest comes first
        for size in (np.flatnonzero(has_gap[number])[::-1] + 1).tolist():
            members = np.sort(np.append(neighbours[number, :size], row))
            if row != members[0] or any(member not in place for member in members.tolist()):
                continue
            of_members = [place[member] for member in members.tolist()]
            within = distances[of_members, size - 1].max()
            mutual = all(np.isin(neighbours[member, :size], members).all() for member in of_members)
            if mutual and distances[of_members, size].min() >= _LEAST_RATIO * max(within, 1e-12):
                groups.append(tuple(members.tolist()))
                grouped.update(members.tolist())
                break
    return groups


def _inside_and_outside(rows: FloatArray, members: IntArray, squares: FloatArray) -> tuple[float, float]:
    """Largest distance within a group, and smallest distance of a member to any other row, with their squared norms."""
    squared = _squared_distances(rows[members], rows, squares)
    squared[:, members] = np.inf
    return float(_distances(rows, members).max()), float(np.sqrt(squared.min()))


def _distances(rows: FloatArray, members: IntArray) -> FloatArray:
    """(m, m) distances, computed from differences: exact where rows are almost equal."""
    distances: FloatArray = np.linalg.norm(rows[members][:, None] - rows[members][None], axis=2)
    return distances


def _squared_distances(some: FloatArray, rows: FloatArray, squares: FloatArray | None = None) -> FloatArray:
    squares = (rows**2).sum(axis=1) if squares is None else squares
    squared: FloatArray = np.maximum((some**2).sum(axis=1)[:, None] + squares - 2 * some @ rows.T, 0)
    return squared


def _whiten(means: NDArray[np.float64]) -> FloatArray:
    """Coordinates along the directions of most variance, each with variance 1."""
    centred = means - means.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    count = max(2, min(len(means) // _SLIDES_PER_DIRECTION, int((variances > variances[-1] * 1e-10).sum())))
    whitened: FloatArray = centred @ directions[:, -count:] / np.sqrt(np.maximum(variances[-count:], 1e-300))
    return whitened
