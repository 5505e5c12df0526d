"""Slides whose embeddings are closer than any two different slides of the cohort: one slide under several names.

Copies that were read again, recompressed or embedded with other arithmetic are not bit-identical. They stand out by
isolation: a copy is several times as close to its copies as to any other slide, whatever the scale of the embedding.
Two measures must agree, because slides that look alike (pale, small) are isolated in the few features that dominate a
correlation, but not once all directions of the embedding have equal variance.
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
_BLOCK = 1024


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

    Distances are sqrt(1 - r) between mean embeddings. A group counts if its closest outsider is at least 1.75 times as
    far as its members are from one another, if its members are closer than 0.6 times the median distance to a nearest
    slide, and if it is isolated by a factor of 1.1 and closer than 0.75 times the median as well where the directions
    of most variance, one per four slides, are scaled to equal variance.

    Args:
        bags: All slides of the evaluation. Fewer than 20 are too few to tell; none are found then.

    Returns:
        The most isolated groups first. Bit-identical slides count as well.
    """
    if len(bags.slides) < FEWEST_SLIDES:
        return []
    means = bags.mean().astype(np.float64)
    unit, varies = _unit_rows(means)
    neighbours, distances = _nearest(unit, min(_LARGEST_GROUP, len(unit) - 1))
    typical = float(np.median(distances[:, 0]))
    groups = [
        group
        for group in _isolated_groups(neighbours, distances, _LEAST_RATIO)
        if varies[list(group)].all() and _distances(unit, np.array(group)).max() <= _LARGEST_SHARE * typical
    ]
    if not groups:
        return []
    whitened = _whiten(means)
    _, whitened_distances = _nearest(whitened, 1)
    closest = _LARGEST_WHITENED_SHARE * float(np.median(whitened_distances))
    found = []
    for group in groups:
        members = np.array(group)
        inside, outside = _inside_and_outside(whitened, members)
        if outside < _LEAST_WHITENED_RATIO * inside or inside > closest:
            continue
        within, nearest = _inside_and_outside(unit, members)
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
        f"another in {listed(names)}, such as "
        f"{copies_of[names[0]][0].description}. Keep one slide of each, unless they are different slides."
        for groups, names in models.items()
    ]


def _unit_rows(means: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Rows scaled so that half their squared distance is 1 - r, and which rows vary at all."""
    centred = means - means.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    varies = norms[:, 0] > 0
    scaled: FloatArray = centred / np.where(norms > 0, norms, 1) / np.sqrt(2)
    return scaled, varies


def _nearest(rows: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
    """(n, count) nearest other rows of each row, and how far they are, both by distance."""
    neighbours, distances = np.zeros((len(rows), count), dtype=np.int64), np.zeros((len(rows), count))
    for start in range(0, len(rows), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(rows)))
        squared = _squared_distances(rows[block], rows)
        squared[np.arange(len(block)), block] = np.inf
        nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(squared, nearest, axis=1), axis=1, kind="stable")
        neighbours[block] = np.take_along_axis(nearest, order, axis=1)
        distances[block] = np.sqrt(np.take_along_axis(squared, neighbours[block], axis=1))
    return neighbours, distances


def _isolated_groups(neighbours: IntArray, distances: FloatArray, ratio: float) -> list[tuple[int, ...]]:
    """Groups whose members name one another as nearest, with a gap to the next slide; the largest of nested groups."""
    groups: list[tuple[int, ...]] = []
    has_gap = distances[:, 1:] >= ratio * np.maximum(distances[:, :-1], 1e-12)  # necessary, and rare
    for row in np.flatnonzero(has_gap.any(axis=1)).tolist():
        for size in (np.flatnonzero(has_gap[row])[::-1] + 1).tolist():
            members = np.sort(np.append(neighbours[row, :size], row))
            if row != members[0]:
                continue
            within = distances[members, size - 1].max()
            mutual = all(np.isin(neighbours[member, :size], members).all() for member in members)
            if mutual and distances[members, size].min() >= ratio * max(within, 1e-12):
                if not any(set(members.tolist()) <= set(group) for group in groups):
                    groups.append(tuple(members.tolist()))
                break
    return groups


def _inside_and_outside(rows: FloatArray, members: IntArray) -> tuple[float, float]:
    """Largest distance within a group, and smallest distance of a member to any other row."""
    squared = _squared_distances(rows[members], rows)
    squared[:, members] = np.inf
    return float(_distances(rows, members).max()), float(np.sqrt(squared.min()))


def _distances(rows: FloatArray, members: IntArray) -> FloatArray:
    """(m, m) distances, computed from differences: exact where rows are almost equal."""
    distances: FloatArray = np.linalg.norm(rows[members][:, None] - rows[members][None], axis=2)
    return distances


def _squared_distances(some: FloatArray, rows: FloatArray) -> FloatArray:
    squares = (rows**2).sum(axis=1)
    squared: FloatArray = np.maximum((some**2).sum(axis=1)[:, None] + squares - 2 * some @ rows.T, 0)
    return squared


def _whiten(means: NDArray[np.float64]) -> FloatArray:
    """Coordinates along the directions of most variance, each with variance 1."""
    centred = means - means.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    count = max(2, min(len(means) // _SLIDES_PER_DIRECTION, int((variances > variances[-1] * 1e-10).sum())))
    whitened: FloatArray = centred @ directions[:, -count:] / np.sqrt(np.maximum(variances[-count:], 1e-300))
    return whitened
