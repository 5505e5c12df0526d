"""Dividing a cohort into train, val and test so that no patient is on two sides, and every class is on each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed, natural_key
from slpd_toolkit.mil.cohort.patients import pick_patients

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from slpd_toolkit.mil.arrays import BoolArray, IntArray, StrArray
    from slpd_toolkit.mil.cohort.patients import Cohort, PatientTable

_MIN_FOLDS = 3
_CARVED_PARTS = 10


@dataclass(frozen=True)
class Split:
    """One division of slides. Heads learn from train, are selected on val, and see test once, to be judged."""

    fold: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    repeat: int = 0

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Slide ids by the name of their part."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def restricted_to(self, known: Collection[str]) -> Split:
        """Leave out the slides that are not in `known`, for splits that name slides without a label or embedding."""
        known = set(known)
        train, val, test = (tuple(slide for slide in part if slide in known) for part in self.parts.values())
        return Split(self.fold, train, val, test, self.repeat)


def cross_validation(
    cohort: Cohort, *, folds: int, repeats: int = 1, seed: int = 0, by_site: bool = False
) -> list[Split]:
    """Split patients into folds; test on each in turn, select on the next one, train on the others.

    Taking the next fold for validation gives each class its share of train, val and test alike, and puts every patient
    once into val and once into test a repeat.

    Args:
        cohort: Who is split. Patients are the unit: classes are balanced over patients, not over slides.
        folds: Number of folds, three or more.
        repeats: How often to divide anew.
        seed: Source of the divisions. They do not depend on the order of the slides.
        by_site: Keep every site within one fold, so that test sites were not trained on. Large sites leave little to
            shuffle.

    Returns:
        `repeats` x `folds` splits, repeat by repeat.

    Raises:
        UsageError: Fewer than three folds, a class with fewer patients (or sites) than folds, a fold that sites leave
            without a class, or repeats that sites force to be equal.
    """
    if folds < _MIN_FOLDS or repeats < 1:
        raise UsageError(
            f"Got {folds} folds and {repeats} repeats.",
            hint=f"Allowed: {_MIN_FOLDS} folds or more (one each for train, val and test), 1 repeat or more.",
        )
    table = cohort.patient_table()
    if by_site and table.sites is None:
        raise UsageError("Splitting by site needs a site for every slide.", hint="Add a column `site` to the manifest.")
    units = table.sites if by_site else None
    _require_enough(table, units, folds)
    splits: list[Split] = []
    seen: set[frozenset[frozenset[str]]] = set()
    for repeat in range(repeats):
        fold_of_patient = _assign(table, units, folds, np.random.default_rng([seed, repeat]))
        _require_all_classes(table, fold_of_patient)
        division = _rotate(cohort, fold_of_patient[table.of_slide], folds, repeat)
        folds_seen = frozenset(frozenset(split.test) for split in division)
        if folds_seen in seen:
            raise UsageError(
                f"Repeat {repeat} has the same folds as an earlier one.",
                hint="Too few sites to shuffle: use one repeat.",
            )
        seen.add(folds_seen)
        splits += division
    return splits


def from_column(cohort: Cohort, values: StrArray, *, seed: int = 0) -> list[Split]:
    """Read splits from a manifest column.

    Args:
        cohort: Who is split.
        values: (N,) for each slide its fold (any names, sorted as numbers where they are numbers; the next fold is the
            validation part) or its part: `train`, `test` and `val`. Without `val` a tenth of the training patients are.
        seed: Source of a carved validation part.

    Returns:
        A split a fold, or one. Patients are left where the column puts them: `audit` says whether it leaks.

    Raises:
        UsageError: Empty cells, fewer than three folds, or parts without train or test.
    """
    empty = cohort.slides[np.char.strip(values) == ""]
    if len(empty):
        raise UsageError(
            f"{len(empty)} slides have no fold: {listed(empty)}.", hint="Fill the column, or leave these slides out."
        )
    names = sorted(set(values.tolist()), key=natural_key)
    if set(names) <= {"train", "val", "test"}:
        return [_named(cohort, values, seed)]
    if len(names) < _MIN_FOLDS:
        raise UsageError(
            f"The fold column holds {listed(names)}.", hint="Needed: three folds or more, or train, val and test."
        )
    fold_of_slide = np.array([names.index(value) for value in values.tolist()])
    return _rotate(cohort, fold_of_slide, len(names), repeat=0)


def find_equal(splits: Sequence[Split]) -> list[list[int]]:
    """Find the splits that divide the slides alike, whatever the order: the numbers of those that are one split."""
    numbers: defaultdict[tuple[frozenset[str], ...], list[int]] = defaultdict(list)
    for split in splits:
        numbers[tuple(map(frozenset, split.parts.values()))].append(split.fold)
    return [each for each in numbers.values() if len(each) > 1]


def _assign(table: PatientTable, units: StrArray | None, folds: int, rng: np.random.Generator) -> IntArray:
    """(P,) the test fold of each patient."""
    fold_of_patient = np.empty(len(table.ids), dtype=np.int64)
    if units is None:
        divisions = StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31))).split(
            table.ids, table.strata
        )
    else:
        # Up to scikit-learn 1.7 its own shuffle mixes up the groups and loses the stratification (scikit-learn #32478).
        # Renaming the groups at random shuffles as well: ties between groups are broken by name.
        names, codes = np.unique(units, return_inverse=True)
        renamed = rng.permutation(len(names))[codes]
        divisions = StratifiedGroupKFold(folds).split(table.ids, table.strata, renamed)
    for fold, (_, test) in enumerate(divisions):
        fold_of_patient[test] = fold
    return fold_of_patient


def _rotate(cohort: Cohort, fold_of_slide: IntArray, folds: int, repeat: int) -> list[Split]:
    def split(fold: int) -> Split:
        is_test, is_val = fold_of_slide == fold, fold_of_slide == (fold + 1) % folds
        return Split(fold, _ids(cohort, ~is_test & ~is_val), _ids(cohort, is_val), _ids(cohort, is_test), repeat)

    return [split(fold) for fold in range(folds)]


def _named(cohort: Cohort, values: StrArray, seed: int) -> Split:
    train, val, test = (values == name for name in ("train", "val", "test"))
    if not train.any() or not test.any():
        raise UsageError(
            f"The split column holds {listed(np.unique(values))} only.",
            hint="Needed: train and test, and val if you have it.",
        )
    if not val.any():
        table = cohort.patient_table()
        candidates = np.unique(table.of_slide[train])
        carved = pick_patients(
            candidates, table.strata, lambda count: max(1, count // _CARVED_PARTS), np.random.default_rng(seed)
        )
        val = train & np.isin(table.of_slide, carved)
        train &= ~val
    return Split(0, _ids(cohort, train), _ids(cohort, val), _ids(cohort, test))


def _ids(cohort: Cohort, chosen: BoolArray) -> tuple[str, ...]:
    return tuple(sorted(cohort.slides[chosen].tolist()))


def _require_enough(table: PatientTable, units: StrArray | None, folds: int) -> None:
    kind, members = ("patients", table.ids) if units is None else ("sites", units)
    counts = {str(name): len(np.unique(members[table.strata == name])) for name in np.unique(table.strata)}
    few = [f"{name or 'the cohort'} has {count}" for name, count in counts.items() if count < folds]
    if few:
        most = min(counts.values())
        fewer = f"Use {most} folds or fewer (at least {_MIN_FOLDS})" if most >= _MIN_FOLDS else f"Find more {kind}"
        raise UsageError(
            f"{folds} folds need {folds} {kind} a class or more; {listed(few)}.",
            hint=f"{fewer}, or leave these classes out.",
        )


def _require_all_classes(table: PatientTable, fold_of_patient: IntArray) -> None:
    for fold in np.unique(fold_of_patient):
        absent = np.setdiff1d(table.strata, table.strata[fold_of_patient == fold])
        if len(absent):
            raise UsageError(
                f"Fold {fold} has no patient of {listed(absent)}: its sites hold none.",
                hint="Use fewer folds, or do not split by site.",
            )
