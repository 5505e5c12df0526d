"""Converting a manifest to a cohort and a task, and reporting slides that cannot be evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import Problems, UsageError
from slpd_toolkit.core.manifest import check_ids, read_table, summarise
from slpd_toolkit.core.row_filter import select_rows
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.sites import read_sites
from slpd_toolkit.mil.cohort.split_kind import split_kind
from slpd_toolkit.mil.tasks.task import task_class

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.arrays import StrArray
    from slpd_toolkit.mil.tasks.task import Task

_PATIENT = "patient_id"


@dataclass(frozen=True, eq=False)
class Inputs:
    """The slides that can be evaluated, sorted by ID, with their targets and patients."""

    target: str
    """Names of the target columns."""
    task: Task
    cohort: Cohort
    split_cells: Mapping[str, StrArray]
    """(N,) cells of each column that the split kind uses."""
    patient_of: Mapping[str, str]
    """Patient of every slide in the manifest, including those that are left out or not selected."""
    notes: tuple[str, ...]
    """Notes on what was left out or assumed."""
    sites: StrArray | None = None
    """(N,) site of each slide, empty where it is not known; None without sites."""
    covariates: Mapping[str, StrArray] = field(default_factory=dict)
    """(N,) cells of each covariate."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest, which may lack slide files.

    Raises:
        UsageError: The file cannot be read, or slide IDs are missing, duplicate or invalid.
    """
    table = read_table(path, required=("slide_id",))
    problems = check_ids(table)
    if problems:
        raise UsageError(f"Manifest {path}:\n{summarise(problems)}", hint="Correct these rows.")
    return table


def read_inputs(
    table: pd.DataFrame,
    embedded: Mapping[str, Collection[str]],
    config: MilEvalConfig,
    skipped: Collection[str] = frozenset(),
) -> Inputs:
    """Check a manifest against its embeddings, and read its targets.

    Args:
        table: Result of `manifest.read_table`, with checked slide IDs.
        embedded: The slides of each source of embeddings, by the name of the source in messages.
        config: Names of the columns, the task, and whether slides may be missing.
        skipped: Slides that are left out without a message.

    Raises:
        UsageError: Missing columns; slides without target or embedding and embeddings of unlisted slides, unless slides
            may be missing; invalid targets; a patient with two targets. As many problems as possible are reported
            together.
    """
    kind = task_class(config.kind)
    columns = kind.columns(config)
    _require_columns(table, columns, config)
    table = table.set_index("slide_id", drop=False).sort_index()
    patients = _patients(table)
    patient_of = dict(zip(table.index, patients, strict=True))
    chosen_rows = select_rows(table, config.where, config.manifest)
    chosen_rows = chosen_rows[~chosen_rows.index.isin(list(skipped))]
    left_out = set(table.index) - set(chosen_rows.index)
    embedded = {source: set(slides) - left_out for source, slides in embedded.items()}
    table, patients = chosen_rows, patients.loc[chosen_rows.index]
    problems, notes = Problems(), []
    if _PATIENT not in table:
        notes.append("The manifest has no column patient_id: every slide counts as a separate patient.")
    labelled = _has_targets(table, columns, kind)
    labelled &= kind.is_wanted(table[columns], config)
    usable = labelled & table.index.isin(set.intersection(*map(set, embedded.values())))
    for finding in _findings(table, labelled, columns, embedded, kind):
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
    notes += task.assumptions(config)
    split_cells = {name: chosen[name].to_numpy(np.str_) for name in split_kind(config.kind_of_split).columns(config)}
    sites = read_sites(chosen, config.site_column)
    covariates = {name: chosen[name].to_numpy(np.str_) for name in config.covariate_columns}
    return Inputs(", ".join(columns), task, cohort, split_cells, patient_of, tuple(notes), sites, covariates)


def _require_columns(table: pd.DataFrame, targets: list[str], config: MilEvalConfig) -> None:
    needed = [*targets, *config.covariate_columns, *split_kind(config.kind_of_split).columns(config)]
    absent = [name for name in needed if name not in table]
    if absent:
        near = {name: get_close_matches(name, table.columns, n=1) for name in absent}
        named = [f"{name}{f' (did you mean {near[name][0]}?)' if near[name] else ''}" for name in absent]
        raise UsageError(
            f"Manifest: column {' and column '.join(named)} not found.",
            hint=f"Found: {', '.join(table.columns)}.",
        )


def patients_of(table: pd.DataFrame) -> dict[str, str]:
    """Return the patient of each slide of a manifest; without patient_id, each slide is a patient."""
    patients = _patients(table.set_index("slide_id", drop=False))
    return dict(zip(patients.index, patients, strict=True))


def _patients(table: pd.DataFrame) -> pd.Series[str]:
    own = table.index.to_series()
    return table[_PATIENT].mask(table[_PATIENT] == "", own) if _PATIENT in table else own


def _findings(
    table: pd.DataFrame,
    labelled: pd.Series[bool],
    columns: list[str],
    embedded: Mapping[str, Collection[str]],
    kind: type[Task],
) -> list[UsageError]:
    """Return errors for slides that cannot be used, per source."""
    go_on = "Use --allow-missing to leave them out."
    found = []
    empty = ~_has_targets(table, columns, kind)
    bare, other = table.index[empty], table[~labelled & ~empty]
    if len(bare):
        found.append(
            UsageError(
                f"{count(len(bare), 'slide has', 'slides have')} no {' or no '.join(columns)}: {listed(bare)}.",
                hint=go_on,
            )
        )
    if len(other):
        counts = other[columns[0]].value_counts()
        labels = listed(f"{name} {count}" for name, count in counts.items())
        found.append(
            UsageError(
                f"{count(len(other), 'slide has', 'slides have')} a {columns[0]} not in --classes: {labels}.",
                hint=go_on,
            )
        )
    for source, slides in embedded.items():
        without = table.index[labelled & ~table.index.isin(list(slides))]
        if len(without):
            found.append(
                UsageError(
                    f"{count(len(without), 'slide is', 'slides are')} not in {source}: {listed(without)}.", hint=go_on
                )
            )
        unlisted = sorted(set(slides) - set(table.index))
        if unlisted:
            found.append(
                UsageError(
                    f"{count(len(unlisted), 'slide')} of {source} {agree(len(unlisted), 'is', 'are')} not in the "
                    f"manifest: {listed(unlisted)}.",
                    hint=go_on,
                )
            )
    return found


def _has_targets(table: pd.DataFrame, columns: list[str], kind: type[Task]) -> pd.Series[bool]:
    filled = table[columns] != ""
    return filled.any(axis=1) if kind.targets_are == "joint" else filled.all(axis=1)


def _no_slide(table: pd.DataFrame, embedded: Mapping[str, Collection[str]]) -> UsageError:
    examples = [f"{source} has {min(slides)}" for source, slides in embedded.items() if slides]
    return UsageError(
        f"No slide has both a target and an embedding: the manifest has {table.index[0]}, {listed(examples)}.",
        hint="Compare the slide IDs: they must be spelled identically.",
    )


def _read_task(chosen: pd.DataFrame, columns: list[str], config: MilEvalConfig) -> Task:
    slides = chosen.index.to_numpy(np.str_)
    cells = [chosen[name].to_numpy(np.str_) for name in columns]
    return task_class(config.kind).read(slides, cells, config)


def _cohort(chosen: pd.DataFrame, patients: StrArray, task: Task, config: MilEvalConfig) -> Cohort:
    slides = chosen.index.to_numpy(np.str_)
    task.check_patients(patients)
    # With a single stratum, for example without censored cases, there is nothing to balance.
    strata = task.strata if len(np.unique(task.strata)) > 1 else None
    sites = chosen[config.site_column].to_numpy(np.str_) if config.by_site else None
    if sites is not None and (sites == "").any():
        raise UsageError(
            f"{count((sites == '').sum(), 'slide has', 'slides have')} no {config.site_column}: "
            f"{listed(slides[sites == ''])}.",
            hint="Splitting by site needs a site for every slide.",
        )
    return Cohort(slides, patients, strata, sites, task.balance)
