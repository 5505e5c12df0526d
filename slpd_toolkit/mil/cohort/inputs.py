"""From a manifest's cells to a cohort and a task: who can be evaluated, who cannot, and why."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import Problems, UsageError
from slpd_toolkit.core.text import listed, natural_key
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.tasks.targets import read_classification, read_survival
from slpd_toolkit.mil.tasks.task import Classification, Survival

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.arrays import StrArray
    from slpd_toolkit.mil.tasks.task import Task

_TIME, _EVENT = "time", "event"
_PATIENT = "patient_id"
_LIKE_NOTHING = frozenset({"nan", "na", "n/a", "none", "null"})
"""What programs write where a value is missing; it may be a class all the same."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The slides that an evaluation can use, sorted by id, and what is known of them."""

    target: str
    """The column or columns that are predicted."""
    task: Task
    cohort: Cohort
    folds: StrArray | None
    """(N,) cells of the fold column, if one is used."""
    patient_of: Mapping[str, str]
    """Patient of every slide of the manifest, those that are left out included."""
    notes: tuple[str, ...]
    """What was left out or assumed."""


def read_inputs(table: pd.DataFrame, embedded: Mapping[str, Collection[str]], config: MilEvalConfig) -> Inputs:
    """Check a manifest against its embeddings, and read its targets.

    Args:
        table: From `manifest.read_table`, its slide ids checked.
        embedded: The slides that each source of embeddings has, by what the source is called in messages.
        config: Names of the columns, the task, and whether slides may be missing.

    Raises:
        UsageError: Columns that are not there; slides without target or embedding, unless they may be missing, and
            embeddings of slides that are not listed; targets that cannot be used; a patient with two targets. All that
            can be told at once is.
    """
    columns = target_columns(config)
    _require_columns(table, columns, config)
    table = table.set_index("slide_id", drop=False).sort_index()
    patients = _patients(table)
    problems, notes = Problems(), []
    if _PATIENT not in table:
        notes.append("The manifest has no column patient_id: every slide counts as a patient of its own.")
    labelled = (table[columns] != "").all(axis=1)
    if config.classes:
        labelled &= table[config.target].isin(config.classes)
    usable = labelled & table.index.isin(set.intersection(*map(set, embedded.values())))
    for finding in _findings(table, labelled, columns, embedded):
        if config.allow_missing:
            notes.append(finding.message)
        else:
            problems.found.append(finding)
    if not usable.any():
        problems.found.append(_no_slide(table, embedded))
        problems.raise_any()
    chosen = table[usable]
    with problems.gathered():
        task = _read_task(chosen, columns, config)
        cohort = _cohort(chosen, patients[usable].to_numpy(np.str_), task, config)
    problems.raise_any()
    notes += _assumed(task, config)
    folds = None if config.fold_column is None else chosen[config.fold_column].to_numpy(np.str_)
    return Inputs(", ".join(columns), task, cohort, folds, dict(zip(table.index, patients, strict=True)), tuple(notes))


def target_columns(config: MilEvalConfig) -> list[str]:
    """The manifest columns that are predicted: the target, or time and event."""
    if config.kind == "survival":
        return [config.time_column or _TIME, config.event_column or _EVENT]
    return [config.target]


def _require_columns(table: pd.DataFrame, targets: list[str], config: MilEvalConfig) -> None:
    needed = [*targets, *([config.site_column] if config.by_site else []), *filter(None, [config.fold_column])]
    absent = [name for name in needed if name not in table]
    if absent:
        near = {name: get_close_matches(name, table.columns, n=1) for name in absent}
        named = [f"{name}{f' (did you mean {near[name][0]}?)' if near[name] else ''}" for name in absent]
        raise UsageError(
            f"Manifest: there is no column {' and no column '.join(named)}.",
            hint=f"It has {', '.join(table.columns)}.",
        )


def _patients(table: pd.DataFrame) -> pd.Series[str]:
    own = table.index.to_series()
    return table[_PATIENT].mask(table[_PATIENT] == "", own) if _PATIENT in table else own


def _findings(
    table: pd.DataFrame, labelled: pd.Series[bool], columns: list[str], embedded: Mapping[str, Collection[str]]
) -> list[UsageError]:
    """Slides that cannot be used, source by source."""
    go_on = "--allow-missing leaves them out."
    found = []
    empty = (table[columns] == "").any(axis=1)
    bare, other = table.index[empty], table[~labelled & ~empty]
    if len(bare):
        found.append(UsageError(f"{len(bare)} slides have no {' or no '.join(columns)}: {listed(bare)}.", hint=go_on))
    if len(other):
        counts = other[columns[0]].value_counts()
        labels = listed(f"{name} {count}" for name, count in counts.items())
        found.append(UsageError(f"{len(other)} slides have a {columns[0]} not in --classes: {labels}.", hint=go_on))
    for source, slides in embedded.items():
        without = table.index[labelled & ~table.index.isin(list(slides))]
        if len(without):
            found.append(UsageError(f"{len(without)} slides are not in {source}: {listed(without)}.", hint=go_on))
        unlisted = sorted(set(slides) - set(table.index))
        if unlisted:
            found.append(
                UsageError(
                    f"{len(unlisted)} slides of {source} are not in the manifest: {listed(unlisted)}.", hint=go_on
                )
            )
    return found


def _no_slide(table: pd.DataFrame, embedded: Mapping[str, Collection[str]]) -> UsageError:
    examples = [f"{source} has {min(slides)}" for source, slides in embedded.items() if slides]
    return UsageError(
        f"No slide has both a target and an embedding: the manifest has {table.index[0]}, {listed(examples)}.",
        hint="Compare the slide ids: both sides must spell them alike.",
    )


def _read_task(chosen: pd.DataFrame, columns: list[str], config: MilEvalConfig) -> Task:
    slides = chosen.index.to_numpy(np.str_)
    cells = [chosen[name].to_numpy(np.str_) for name in columns]
    if config.kind == "survival":
        return read_survival(slides, cells[0], cells[1], bins=config.time_bins)
    return read_classification(slides, cells[0], classes=config.classes, ordinal=config.kind == "ordinal")


def _assumed(task: Task, config: MilEvalConfig) -> list[str]:
    """What the classes were taken for, where nobody said it."""
    if not isinstance(task, Classification) or config.classes:
        return []
    odd = [name for name in task.classes if name.lower() in _LIKE_NOTHING]
    notes = []
    if odd:
        notes.append(f"{listed(odd)} counts as a class. Empty cells are what is missing; --classes leaves classes out.")
    if task.ordinal and any(natural_key(name)[0] for name in task.classes):
        notes.append(f"The order of the classes is taken to be {' < '.join(task.classes)}; --classes gives another.")
    return notes


def _cohort(chosen: pd.DataFrame, patients: StrArray, task: Task, config: MilEvalConfig) -> Cohort:
    slides = chosen.index.to_numpy(np.str_)
    strata: StrArray | None = task.strata
    if isinstance(task, Survival):
        _require_one_time(patients, task)
        if task.events.all():
            strata = None  # nobody is censored: there is nothing to balance
    sites = chosen[config.site_column].to_numpy(np.str_) if config.by_site else None
    if sites is not None and (sites == "").any():
        raise UsageError(
            f"{(sites == '').sum()} slides have no {config.site_column}: {listed(slides[sites == ''])}.",
            hint="Splitting by site needs a site for every slide.",
        )
    return Cohort(slides, patients, strata, sites)


def _require_one_time(patients: StrArray, task: Survival) -> None:
    pairs = sorted({(str(patient), float(time)) for patient, time in zip(patients, task.times, strict=True)})
    twice = sorted({one for (one, _), (other, _) in pairwise(pairs) if one == other})
    if twice:
        raise UsageError(
            f"{len(twice)} patients have more than one time: {listed(twice)}.",
            hint="Survival belongs to patients: correct or drop these.",
        )
