"""Units of a cohort that each split trains on and tests: patients, or sites if whole sites were split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split


@dataclass(frozen=True, eq=False)
class Division:
    """How J splits divide the U independent units of a cohort.

    Patients are the units if patients were split. If whole sites were split, patients of the same site are not
    independent, and sites are the units.
    """

    unit_of_row: IntArray
    """(N,) unit of each slide."""
    strata: StrArray
    """(U,) class of each unit; all equal if units are sites."""
    trained: BoolArray
    """(J, U) whether a split trains on a unit."""
    tested: BoolArray
    """(J, U) whether a split tests a unit."""
    repeats: IntArray
    """(J,) repeat of each split."""
    by_site: bool = False
    """Whether units are sites."""

    @property
    def folds(self) -> int:
        """Mean number of splits per repeat, rounded."""
        return round(len(self.repeats) / len(np.unique(self.repeats)))

    @property
    def test_train_ratio(self) -> float:
        """Mean ratio of tested to training units of a split."""
        return float((self.tested.sum(axis=1) / self.trained.sum(axis=1)).mean())

    def shares_trained(self) -> tuple[FloatArray, FloatArray]:
        """Fraction w(i, j) of the splits testing unit i that train on unit j, 0 if it is never tested, as two factors.

        All pairs of twenty thousand units would take gigabytes.

        Returns:
            A and B, both (J, U): w = A.T @ B.
        """
        tested, trained = self.tested.astype(np.float64), self.trained.astype(np.float64)
        return tested / np.maximum(tested.sum(axis=0), 1), trained


def divide_units(cohort: Cohort, splits: Sequence[Split], *, by_site: bool = False) -> Division:
    """Reduce splits of slides to splits of units.

    Args:
        cohort: The cohort that was split.
        splits: Slides of each part.
        by_site: Whether whole sites were split.
    """
    table = cohort.patient_table()
    unit_of_row, strata = table.of_slide, table.strata
    if by_site:
        assert table.sites is not None
        names, of_patient = np.unique(table.sites, return_inverse=True)
        unit_of_row, strata = of_patient.astype(np.int64)[table.of_slide], np.full(len(names), "")
    unit_of = dict(zip(cohort.slides.tolist(), unit_of_row.tolist(), strict=True))
    trained, tested = np.zeros((2, len(splits), len(strata)), dtype=np.bool_)
    for number, split in enumerate(splits):
        trained[number, [unit_of[slide] for slide in split.train]] = True
        tested[number, [unit_of[slide] for slide in split.test]] = True
    return Division(unit_of_row, strata, trained, tested, np.array([split.repeat for split in splits]), by_site)
