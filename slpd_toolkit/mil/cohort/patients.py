"""Who is in the evaluation: slides, the patients they come from, and what splits must balance or keep whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.mil.arrays import IntArray, StrArray


@dataclass(frozen=True, eq=False)
class Cohort:
    """The slides of an evaluation. The patient is the unit that is split, resampled and permuted; slides follow.

    Raises:
        UsageError: A slide stands there twice, a patient has two strata or two sites, or there is a single stratum.
    """

    slides: StrArray
    """(N,) unique slide ids."""
    patients: StrArray
    """(N,) patient of each slide."""
    strata: StrArray | None = None
    """(N,) what every part should hold in the cohort's proportions: the label, or event/censored. None: nothing."""
    sites: StrArray | None = None
    """(N,) tissue source site of each slide, needed only to keep sites whole."""

    def __post_init__(self) -> None:
        names, counts = np.unique(self.slides, return_counts=True)
        if (counts > 1).any():
            raise UsageError(f"Slides listed twice: {listed(names[counts > 1])}.", hint="Keep one row a slide.")
        if self.strata is not None:
            _require_one_each(
                self.patients, self.strata, "label", "Labels belong to patients here: correct or drop these patients."
            )
            classes = np.unique(self.strata)
            if len(classes) < 2:
                found = listed(classes) or "nothing"
                raise UsageError(
                    f"All {len(self.slides)} slides have one label: {found}.", hint="A task needs two classes or more."
                )
        if self.sites is not None:
            _require_one_each(
                self.patients, self.sites, "site", "Without one site a patient, sites cannot be kept whole."
            )

    def patient_table(self) -> PatientTable:
        """Reduce the cohort to one row a patient, sorted by id, so that the order of the slides has no influence."""
        ids, first, of_slide = np.unique(self.patients, return_index=True, return_inverse=True)
        strata = np.zeros(len(ids), dtype=np.str_) if self.strata is None else self.strata[first]
        sites = None if self.sites is None else self.sites[first]
        return PatientTable(ids, strata, sites, of_slide.astype(np.int64))


@dataclass(frozen=True, eq=False)
class PatientTable:
    """One row a patient."""

    ids: StrArray
    """(P,) sorted."""
    strata: StrArray
    """(P,) label of each patient; all equal where the cohort has no strata."""
    sites: StrArray | None
    """(P,)"""
    of_slide: IntArray
    """(N,) row in this table of each slide of the cohort."""


def pick_patients(
    candidates: IntArray, strata: StrArray, wanted: Callable[[int], int], rng: np.random.Generator
) -> IntArray:
    """Draw patients class by class.

    Args:
        candidates: (Q,) rows of the patient table to draw from, sorted.
        strata: (P,) class of every patient of the table.
        wanted: How many to draw from a class with so many candidates.
        rng: Source of the draw.

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
    ids, counts = np.unique(pairs[:, 0], return_counts=True)
    if (counts > 1).any():
        found = [f"{patient} ({', '.join(pairs[pairs[:, 0] == patient, 1])})" for patient in ids[counts > 1]]
        raise UsageError(f"{len(found)} patients have more than one {name}: {listed(found)}.", hint=hint)
