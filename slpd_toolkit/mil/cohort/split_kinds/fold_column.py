"""Manifest column with the fold or part of each slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed, natural_key
from slpd_toolkit.mil.cohort.patients import pick_patients
from slpd_toolkit.mil.cohort.split_kind import SplitKind
from slpd_toolkit.mil.cohort.splits import MIN_FOLDS, Split, ids_of, rotate_folds

if TYPE_CHECKING:
    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.arrays import StrArray
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.patients import Cohort

_COLUMN = "fold"
_CARVED_PARTS = 10


class FoldColumn(SplitKind):
    """Splits defined by the manifest."""

    settings: ClassVar = frozenset({"fold_column"})

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """Return the fold column."""
        return [settings.fold_column or _COLUMN]

    @classmethod
    def divide(cls, inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
        """See `from_column`."""
        (column,) = cls.columns(settings)
        return from_column(inputs.cohort, inputs.split_cells[column], seed=settings.seed), []


def from_column(cohort: Cohort, values: StrArray, *, seed: int = 0) -> list[Split]:
    """Read splits from a manifest column.

    Args:
        cohort: The cohort.
        values: (N,) fold of each slide (any names; numbers are sorted by value; the next fold is the validation part),
            or its part: `train`, `test` or `val`. Without `val`, a tenth of the training patients become the validation
            part.
        seed: Random seed for drawing the validation part.

    Returns:
        One split per fold, or a single one. The column is followed even if it splits patients; `audit` detects that.

    Raises:
        UsageError: Empty cells, fewer than three folds, or no train or test part.
    """
    empty = cohort.slides[np.char.strip(values) == ""]
    if len(empty):
        raise UsageError(
            f"{count(len(empty), 'slide has', 'slides have')} no fold: {listed(empty)}.",
            hint="Fill in the column, or leave these slides out.",
        )
    names = sorted(set(values.tolist()), key=natural_key)
    if set(names) <= {"train", "val", "test"}:
        return [_named(cohort, values, seed)]
    if len(names) < MIN_FOLDS:
        raise UsageError(
            f"The fold column contains {listed(names)}.", hint="Expected: three or more folds, or train, val and test."
        )
    fold_of_slide = np.array([names.index(value) for value in values.tolist()])
    return rotate_folds(cohort, fold_of_slide, len(names), repeat=0)


def _named(cohort: Cohort, values: StrArray, seed: int) -> Split:
    train, val, test = (values == name for name in ("train", "val", "test"))
    if not train.any() or not test.any():
        raise UsageError(
            f"The split column contains only {listed(np.unique(values))}.",
            hint="Expected: train and test, and optionally val.",
        )
    if not val.any():
        table = cohort.patient_table()
        candidates = np.unique(table.of_slide[train])
        carved = pick_patients(
            candidates, table.strata, lambda count: max(1, count // _CARVED_PARTS), np.random.default_rng(seed)
        )
        val = train & np.isin(table.of_slide, carved)
        train &= ~val
    return Split(0, ids_of(cohort, train), ids_of(cohort, val), ids_of(cohort, test))


SPLIT_KIND = FoldColumn
