"""Choosing the held-out patients: not used for any training, and predicted once at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.mil.cohort.splits import MIN_FOLDS

if TYPE_CHECKING:
    from collections.abc import Collection

    from slpd_toolkit.mil.arrays import BoolArray, IntArray, StrArray
    from slpd_toolkit.mil.cohort.patients import Cohort, PatientTable

_TRIES = 500
_FEWER = "Use fewer classes (--classes with --allow-missing), more patients, or --holdout 0."


def hold_out_patients(cohort: Cohort, fraction: float, seed: int) -> BoolArray:
    """Hold out a fraction of the patients of each class, at least one.

    Args:
        cohort: The slides with a target.
        fraction: Fraction of the patients, above 0 and below 1.
        seed: Random seed. The choice does not depend on the order of the slides.

    Returns:
        (N,) whether each slide is of a held-out patient.

    Raises:
        UsageError: A class has too few patients for the hold-out and three folds.
    """
    table = cohort.patient_table()
    _require_enough(table, table.ids, "patients", MIN_FOLDS + 1)
    shuffled = np.random.default_rng([seed, 1]).permutation(len(table.ids))
    held = np.zeros(len(table.ids), dtype=np.bool_)
    for name in np.unique(table.strata):
        members = shuffled[table.strata[shuffled] == name]
        held[members[: min(max(1, round(len(members) * fraction)), len(members) - MIN_FOLDS)]] = True
    return held[table.of_slide]


def hold_out_sites(cohort: Cohort, fraction: float, seed: int) -> BoolArray:
    """Hold out whole sites with about a fraction of all patients, such that both parts have every class.

    Of random sets of sites, the one with the closest number of patients is used.

    Args:
        cohort: The slides with a target and a site.
        fraction: Fraction of the patients, above 0 and below 1.
        seed: Random seed.

    Returns:
        (N,) whether each slide is of a held-out site.

    Raises:
        UsageError: No set of sites leaves each class in three sites and in the held-out ones.
    """
    table = cohort.patient_table()
    assert table.sites is not None
    _require_enough(table, table.sites, "sites", MIN_FOLDS + 1)
    names, site = np.unique(table.sites, return_inverse=True)
    strata = np.unique(table.strata, return_inverse=True)[1]
    counts = np.zeros((len(names), int(strata.max()) + 1), np.int64)  # patients by site and class
    np.add.at(counts, (site, strata), 1)
    best: tuple[float, IntArray] | None = None
    rng = np.random.default_rng([seed, 2])
    for _ in range(_TRIES):
        order = rng.permutation(len(names))
        for held in range(1, len(names) - MIN_FOLDS + 1):
            out, inside = counts[order[:held]], counts[order[held:]]
            if not (out.sum(axis=0) > 0).all() or ((inside > 0).sum(axis=0) < MIN_FOLDS).any():
                continue
            off = abs(out.sum() / counts.sum() - fraction)
            if best is None or off < best[0]:
                best = (off, order[:held])
    if best is None:
        raise UsageError(
            "--by-site: no sites can be held out such that every class occurs both in the held-out sites and in at "
            f"least {MIN_FOLDS} other sites.",
            hint="Hold out patients instead (without --by-site), or use --holdout-column.",
        )
    return np.isin(site, best[1])[table.of_slide]


def held_out_by_column(cohort: Cohort, cells: StrArray, values: Collection[str], column: str) -> BoolArray:
    """Hold out the patients that a column of the manifest marks.

    Args:
        cohort: The slides.
        cells: (N,) cells of the column.
        values: Values that mark held-out patients.
        column: Name of the column, for messages.

    Raises:
        UsageError: No slide or every slide is marked, or a patient has slides on both sides.
    """
    held = np.isin(cells, list(values))
    if not held.any() or held.all():
        raise UsageError(
            f"--holdout-column {column}: {'every' if held.all() else 'no'} slide has the value "
            f"{' or '.join(values)}; found {listed(np.unique(cells))}.",
            hint="Name the value of held-out patients with --holdout-value.",
        )
    both = sorted(set(cohort.patients[held].tolist()) & set(cohort.patients[~held].tolist()))
    if both:
        raise UsageError(
            f"--holdout-column {column}: {count(len(both), 'patient has', 'patients have')} slides on both sides: "
            f"{listed(both)}.",
            hint="Use the same value for all slides of a patient.",
        )
    return held


def most_folds(cohort: Cohort, *, by_site: bool) -> int:
    """Return the largest number of folds: that of the patients, or sites, of the rarest class."""
    table = cohort.patient_table()
    members = table.ids if not by_site or table.sites is None else table.sites
    return min(len(np.unique(members[table.strata == name])) for name in np.unique(table.strata))


def _require_enough(table: PatientTable, members: StrArray, what: str, least: int) -> None:
    counts = {str(name): len(np.unique(members[table.strata == name])) for name in np.unique(table.strata)}
    few = [f"{name or 'the cohort'} has {count}" for name, count in counts.items() if count < least]
    if few:
        raise UsageError(
            f"--holdout requires at least {least} {what} per class, {MIN_FOLDS} for cross-validation and 1 held out; "
            f"{listed(few)}.",
            hint=_FEWER,
        )
