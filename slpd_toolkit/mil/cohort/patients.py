"""Slides and patients of an evaluation, with the strata that splits balance and the sites that they keep together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.mil.arrays import IntArray, StrArray


@dataclass(frozen=True, eq=False)
class Cohort:
    """The slides of an evaluation. Patients are the unit of splitting, resampling and permutation.

    Raises:
        UsageError: A slide is duplicate, a patient has two strata or two sites, or there is only one stratum.
    """

    slides: StrArray
    """(N,) unique slide IDs."""
    patients: StrArray
    """(N,) patient of each slide."""
    strata: StrArray | None = None
    """(N,) strata to balance between parts: the label, or event/censored; None for no balancing."""
    sites: StrArray | None = None
    """(N,) tissue source site of each slide, needed only to keep sites together."""
    balance: StrArray | None = None
    """(N, B) columns of classes that splits balance instead of the strata, empty where unknown."""

    def __post_init__(self) -> None:
        names, counts = np.unique(self.slides, return_counts=True)
        if (counts > 1).any():
            raise UsageError(f"Duplicate slides: {listed(names[counts > 1])}.", hint="Keep one row per slide.")
        if self.strata is not None:
            _require_one_each(
                self.patients, self.strata, "label", "A patient needs a single label: correct or drop these patients."
            )
            classes = np.unique(self.strata)
            if len(classes) < 2:
                found = listed(classes) or "nothing"
                raise UsageError(
                    f"All slides ({len(self.slides):,}) have the same label: {found}.",
                    hint="A task needs two or more classes.",
                )
        if self.sites is not None:
            _require_one_each(
                self.patients, self.sites, "site", "Sites can be kept together only if each patient has a single site."
            )

    def patient_table(self) -> PatientTable:
        """Reduce the cohort to one row per patient, sorted by ID, so that the order of the slides has no influence."""
        return self._patient_table

    @cached_property
    def _patient_table(self) -> PatientTable:
        ids, first, of_slide = np.unique(self.patients, return_index=True, return_inverse=True)
        strata = np.zeros(len(ids), dtype=np.str_) if self.strata is None else self.strata[first]
        sites = None if self.sites is None else self.sites[first]
        of_slide = of_slide.astype(np.int64)
        balance = None if self.balance is None else _first_known(self.balance, of_slide)
        return PatientTable(ids, strata, sites, of_slide, balance)


@dataclass(frozen=True, eq=False)
class PatientTable:
    """One row per patient."""

    ids: StrArray
    """(P,) sorted."""
    strata: StrArray
    """(P,) label of each patient; all equal if the cohort has no strata."""
    sites: StrArray | None
    """(P,)"""
    of_slide: IntArray
    """(N,) row of each slide's patient in this table."""
    balance: StrArray | None = None
    """(P, B) columns of classes that splits balance, empty where unknown."""


def _first_known(columns: StrArray, of_slide: IntArray) -> StrArray:
    """Return the first cell of each patient that is not empty, (P, B)."""
    found = np.zeros((int(of_slide.max()) + 1, columns.shape[1]), dtype=columns.dtype)
    for index, column in enumerate(columns.T):
        known = np.flatnonzero(column != "")[::-1]  # the first of a patient is written last
        found[of_slide[known], index] = column[known]
    return found


def pick_patients(
    candidates: IntArray, strata: StrArray, wanted: Callable[[int], int], rng: np.random.Generator
) -> IntArray:
    """Draw patients from each class.

    Args:
        candidates: (Q,) rows of the patient table to draw from, sorted.
        strata: (P,) class of every patient in the table.
        wanted: Maps the number of candidates of a class to the number of patients to draw.
        rng: Random generator.

    Returns:
        Rows of the patient table, sorted.
    """
    shuffled = rng.permutation(candidates)
    picked = [candidates[:0]]
    for name in np.unique(strata[candidates]):
        members = shuffled[strata[shuffled] == name]
        picked.append(members[: wanted(len(members))])
    return np.sort(np.concatenate(picked))


def _require_one_each(patients: StrArray, values: StrArray, name: str, hint: str) -> None:
    pairs = (
        np.unique(np.stack([patients, values], axis=1), axis=0) if len(patients) else np.empty((0, 2), dtype=np.str_)
    )
    of_patient: dict[str, list[str]] = {}
    for patient, value in pairs.tolist():
        of_patient.setdefault(patient, []).append(value)
    found = [f"{patient} ({', '.join(found)})" for patient, found in of_patient.items() if len(found) > 1]
    if found:
        raise UsageError(
            f"{count(len(found), 'patient has', 'patients have')} more than one {name}: {listed(found)}.", hint=hint
        )
