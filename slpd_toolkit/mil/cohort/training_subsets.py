"""Training subsets with fewer labels: a fraction of the training patients, or a few of each class."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.cohort.patients import pick_patients

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split


def keep_fraction(splits: Sequence[Split], cohort: Cohort, fraction: float, *, seed: int = 0) -> list[Split]:
    """Keep a fraction of the training patients of each class, at least one.

    Val and test are unchanged, as in CLAM and HIPT. For a given seed, each fraction is a subset of every larger one.

    Raises:
        UsageError: `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"Got training fraction {fraction}.", hint="Allowed: above 0, up to 1.")
    return [_thin(split, cohort, lambda count: max(1, round(fraction * count)), seed) for split in splits]


def keep_shots(splits: Sequence[Split], cohort: Cohort, shots: int, *, seed: int = 0) -> list[Split]:
    """Keep `shots` training patients of each class; val and test are unchanged. For a given seed, shots are nested.

    Raises:
        UsageError: `shots` is below 1, or a class has fewer training patients.
    """
    if shots < 1:
        raise UsageError(f"Got {count(shots, 'shot')}.", hint="Allowed: 1 or more.")

    def wanted(patients: int) -> int:
        if patients < shots:
            raise UsageError(
                f"Got {count(shots, 'shot')}, but a class has only {count(patients, 'training patient')} in one of the "
                "folds.",
                hint="Use fewer shots.",
            )
        return shots

    return [_thin(split, cohort, wanted, seed) for split in splits]


def _thin(split: Split, cohort: Cohort, wanted: Callable[[int], int], seed: int) -> Split:
    table = cohort.patient_table()
    in_train = np.isin(cohort.slides, split.train)
    candidates = np.unique(table.of_slide[in_train])
    kept = pick_patients(candidates, table.strata, wanted, np.random.default_rng([seed, split.repeat, split.fold]))
    train = cohort.slides[in_train & np.isin(table.of_slide, kept)]
    return dataclasses.replace(split, train=tuple(sorted(train.tolist())))
