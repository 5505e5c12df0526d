"""Covariates of a manifest as vectors: numbers and classes, with missing cells, fitted on training slides only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import Problems, UsageError
from slpd_toolkit.core.text import count, listed, natural_key
from slpd_toolkit.mil.tasks.targets import read_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray

MOST_CLASSES = 20
"""A text column with more values is probably a numeric column with misspelled cells, or contains identifiers."""


@dataclass(frozen=True, eq=False)
class Covariate:
    """One column of N slides."""

    name: str
    cells: StrArray
    """(N,) empty where missing."""
    numbers: FloatArray | None
    """(N,) NaN where missing; None for classes."""

    @property
    def missing(self) -> int:
        """Number of slides without it."""
        return int((self.cells == "").sum())

    @property
    def description(self) -> str:
        """Name, kind and missing cells, for readers."""
        kind = "number" if self.numbers is not None else f"{len(set(self.cells.tolist()) - {''})} classes"
        missing = f", missing for {count(self.missing, 'slide')}" if self.missing else ""
        return f"{self.name} ({kind}{missing})"

    def encode(self, train: IntArray) -> FloatArray:
        """Return the columns of a design matrix, (N, k), that depend on the training slides only.

        Numbers: the difference from the training median, 0 where it is missing, and an indicator of missing cells if a
        training slide lacks it. Classes: an indicator of each training class; missing cells are one more class.
        """
        if self.numbers is None:
            names = np.unique(self.cells[train])
            indicators: FloatArray = np.equal(self.cells[:, None], names[None, :]).astype(np.float64)
            return indicators
        gone = np.isnan(self.numbers)
        known = self.numbers[train][~gone[train]]
        value = np.where(gone, 0.0, self.numbers - (np.median(known) if len(known) else 0.0))
        return np.stack([value, gone.astype(np.float64)] if gone[train].any() else [value], axis=1)


def read_covariates(columns: Mapping[str, StrArray]) -> list[Covariate]:
    """Read the columns of covariates: numbers if all cells are numbers, else classes.

    Raises:
        UsageError: A column is empty, has the same cell for all slides, or too many values that are not numbers.
    """
    problems, found = Problems(), []
    for name, column in columns.items():
        with problems.gathered():
            found.append(_read(name, np.char.strip(column)))
    problems.raise_any()
    return found


def design_matrix(covariates: list[Covariate], train: IntArray) -> FloatArray:
    """Return the vectors of all slides, (N, D), given the training rows; see `Covariate.encode`."""
    return np.concatenate([each.encode(train) for each in covariates], axis=1)


def _read(name: str, cells: StrArray) -> Covariate:
    known = cells != ""
    values = sorted(set(cells[known].tolist()), key=natural_key)
    if not values:
        raise UsageError(f"--covariates: {name} is empty for all slides.", hint="Leave it out.")
    if len(values) == 1 and known.all():
        raise UsageError(f"--covariates: {name} is {values[0]!r} for all slides.", hint="Leave it out.")
    numbers = np.full(len(cells), np.nan)
    numbers[known] = read_numbers(cells[known])
    if np.isfinite(numbers[known]).all():
        return Covariate(name, cells, numbers)
    if len(values) > MOST_CLASSES:
        odd = [value for value, number in zip(cells[known], numbers[known], strict=True) if not np.isfinite(number)]
        raise UsageError(
            f"--covariates: {name} has {count(len(values), 'different value')}; some are not numbers from -1e30 to "
            f"1e30: {listed(sorted(set(odd))[:3])}.",
            hint=f"Leave missing cells empty. A column of classes may have up to {count(MOST_CLASSES, 'value')}.",
        )
    return Covariate(name, cells, None)
