"""Folds of whole patients with balanced classes, by site on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.mil.cohort.balanced_folds import balanced_folds, count_cells
from slpd_toolkit.mil.cohort.split_kind import SplitKind
from slpd_toolkit.mil.cohort.splits import MIN_FOLDS, rotate_folds

if TYPE_CHECKING:
    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.arrays import BoolArray, IntArray, StrArray
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.patients import Cohort, PatientTable
    from slpd_toolkit.mil.cohort.splits import Split


class CrossValidation(SplitKind):
    """Folds created by this command."""

    settings: ClassVar = frozenset({"repeats", "by_site"})
    makes_folds: ClassVar = True

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:
        """Return the site column, if sites are kept together."""
        return [settings.site_column] if settings.by_site else []

    @classmethod
    def divide(cls, inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
        """See `cross_validation`."""
        assert settings.fold_count is not None
        splits = cross_validation(
            inputs.cohort,
            folds=settings.fold_count,
            repeats=max(settings.repeats_of(aggregator) for aggregator in settings.aggregator),
            at_most=settings.repeats is None,
            seed=settings.seed,
            by_site=settings.by_site,
        )
        return splits, []


def cross_validation(
    cohort: Cohort, *, folds: int, repeats: int = 1, seed: int = 0, by_site: bool = False, at_most: bool = False
) -> list[Split]:
    """Split patients into folds: fold k is the test set, fold k + 1 the validation set, the rest train.

    Classes are balanced over train, val and test, and every patient is in val once and in test once per repeat.

    Args:
        cohort: The cohort. Patients are the unit: classes are balanced over patients, not over slides.
        folds: Number of folds, three or more.
        repeats: Number of random divisions into folds.
        seed: Random seed. The folds do not depend on the order of the slides.
        by_site: Keep every site within one fold, so that test sites are not trained on. With large sites there is
            little to shuffle.
        at_most: Make fewer repeats instead of raising an error where a small cohort has no more different divisions.

    Returns:
        `repeats` x `folds` splits, repeat by repeat.

    Raises:
        UsageError: Fewer than three folds, a class with fewer patients (or sites) than folds, a fold without a class
            because of its sites, or repeats that are equal because of too few sites.
    """
    if folds < MIN_FOLDS or repeats < 1:
        raise UsageError(
            f"Got {folds} folds and {repeats} repeats.",
            hint=f"Allowed: {MIN_FOLDS} or more folds (one each for train, val and test), 1 or more repeats.",
        )
    table = cohort.patient_table()
    if by_site and table.sites is None:
        raise UsageError(
            "Splitting by site requires a site for every slide.", hint="Add a column `site` to the manifest."
        )
    units = table.sites if by_site else None
    _require_enough(table, units, folds)
    splits: list[Split] = []
    seen: set[frozenset[frozenset[str]]] = set()
    for repeat in range(repeats):
        fold_of_patient = _assign(table, units, folds, np.random.default_rng([seed, repeat]))
        _require_all_classes(table, fold_of_patient)
        division = rotate_folds(cohort, fold_of_patient[table.of_slide], folds, repeat)
        folds_seen = frozenset(frozenset(split.test) for split in division)
        if folds_seen in seen and at_most:
            break
        if folds_seen in seen:
            raise UsageError(
                f"Repeat {repeat} has the same folds as an earlier one.",
                hint="Too few sites to shuffle: use one repeat.",
            )
        seen.add(folds_seen)
        splits += division
    return splits


def _assign(table: PatientTable, units: StrArray | None, folds: int, rng: np.random.Generator) -> IntArray:
    """Return the test fold of each patient, (P,)."""
    if table.balance is not None:
        unit_of_patient = np.arange(len(table.ids)) if units is None else np.unique(units, return_inverse=True)[1]
        counts, _ = count_cells(table.balance, unit_of_patient.astype(np.int64))
        return balanced_folds(counts, np.bincount(unit_of_patient), folds, rng)[unit_of_patient]
    fold_of_patient = np.empty(len(table.ids), dtype=np.int64)
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if units is None:
        divisions = StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31))).split(
            table.ids, table.strata
        )
    else:
        # Up to scikit-learn 1.7, its own shuffle mixes up the groups and loses stratification (scikit-learn #32478).
        # Randomly renaming the groups also shuffles, because ties between groups are broken by name.
        names, codes = np.unique(units, return_inverse=True)
        renamed = rng.permutation(len(names))[codes]
        divisions = StratifiedGroupKFold(folds).split(table.ids, table.strata, renamed)
    for fold, (_, test) in enumerate(divisions):
        fold_of_patient[test] = fold
    return fold_of_patient


def _require_enough(table: PatientTable, units: StrArray | None, folds: int) -> None:
    kind, members = ("patients", table.ids) if units is None else ("sites", units)
    counts = {name: len(np.unique(members[of_class])) for name, of_class in _classes(table).items()}
    few = [f"{name or 'the cohort'} has {count}" for name, count in counts.items() if count < folds]
    if few:
        most = min(counts.values())
        fewer = f"Use {most} or fewer folds (at least {MIN_FOLDS})" if most >= MIN_FOLDS else f"Add more {kind}"
        raise UsageError(
            f"{folds} folds require at least {folds} {kind} per class; {listed(few)}.",
            hint=f"{fewer}, or exclude these classes.",
        )


def _require_all_classes(table: PatientTable, fold_of_patient: IntArray) -> None:
    for fold in np.unique(fold_of_patient):
        absent = [name for name, of_class in _classes(table).items() if not of_class[fold_of_patient == fold].any()]
        if absent and table.balance is None:
            raise UsageError(
                f"Fold {fold} has no patients of {listed(absent)}, because its sites have none.",
                hint="Use fewer folds, or do not split by site.",
            )
        if absent:
            raise UsageError(
                f"Fold {fold} has no patients of {listed(absent)}: too few, or in too few sites, for all targets at "
                "once.",
                hint="Use fewer folds, or evaluate the targets one by one.",
            )


def _classes(table: PatientTable) -> dict[str, BoolArray]:
    """Return the (P,) members of each class that is balanced, by its name in messages."""
    if table.balance is None:
        return {str(name): table.strata == name for name in np.unique(table.strata)}
    return {str(name): column == name for column in table.balance.T for name in np.unique(column) if name != ""}


SPLIT_KIND = CrossValidation
