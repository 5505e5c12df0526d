"""Division of a cohort into train, val and test."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from slpd_toolkit.mil.arrays import BoolArray, IntArray
    from slpd_toolkit.mil.cohort.patients import Cohort

MIN_FOLDS = 3
"""One each for train, val and test."""


@dataclass(frozen=True)
class Split:
    """One division of slides. Heads are trained on train, selected on val and evaluated on test."""

    fold: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    repeat: int = 0

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Slide IDs by name of the part."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def restricted_to(self, known: Collection[str]) -> Split:
        """Return the split without slides that are not in `known`, such as slides without a label or embedding."""
        known = set(known)
        train, val, test = (tuple(slide for slide in part if slide in known) for part in self.parts.values())
        return Split(self.fold, train, val, test, self.repeat)


def rotate_folds(cohort: Cohort, fold_of_slide: IntArray, folds: int, repeat: int) -> list[Split]:
    """Return one split per fold k: fold k is the test set, fold k + 1 the validation set, the rest train."""

    def split(fold: int) -> Split:
        is_test, is_val = fold_of_slide == fold, fold_of_slide == (fold + 1) % folds
        return Split(fold, ids_of(cohort, ~is_test & ~is_val), ids_of(cohort, is_val), ids_of(cohort, is_test), repeat)

    return [split(fold) for fold in range(folds)]


def ids_of(cohort: Cohort, chosen: BoolArray) -> tuple[str, ...]:
    """Return the sorted IDs of the slides selected by an (N,) mask."""
    return tuple(sorted(cohort.slides[chosen].tolist()))


def find_equal(splits: Sequence[Split]) -> list[list[int]]:
    """Find groups of identical splits, and return the fold numbers of each group."""
    numbers: defaultdict[tuple[frozenset[str], ...], list[int]] = defaultdict(list)
    for split in splits:
        numbers[tuple(map(frozenset, split.parts.values()))].append(split.fold)
    return [each for each in numbers.values() if len(each) > 1]
