"""The cohort of a study: its manifest, checked and divided into held-out patients and the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.config import study_stages as stages
from slpd_toolkit.config.study_stages import HELD_OUT, INSIDE, PART, StagePaths
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import write_csv
from slpd_toolkit.mil.cohort.holdout import held_out_by_column, hold_out_patients, hold_out_sites, most_folds
from slpd_toolkit.mil.cohort.inputs import read_inputs, read_manifest
from slpd_toolkit.mil.cohort.split_kind import divide
from slpd_toolkit.mil.cohort.splits import MIN_FOLDS
from slpd_toolkit.mil.external.inputs import read_external
from slpd_toolkit.mil.heads.fold_predictions import check_heads

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.config.study import StudyConfig
    from slpd_toolkit.mil.arrays import BoolArray
    from slpd_toolkit.mil.cohort.inputs import Inputs

_MOST_FOLDS = 5


@dataclass(frozen=True, eq=False)
class StudyCohort:
    """The slides of a study by part."""

    table: pd.DataFrame
    """The manifest with the column `study_part`, one row per slide."""
    evaluated_held_out: pd.DataFrame
    """Rows of the held-out patients that have a target."""
    evaluated_inside: frozenset[str]
    """Slides that are not held out and have a target."""
    folds: int
    patients: tuple[int, int]
    """Number of patients with a target: inside, held out."""
    notes: tuple[str, ...]

    def write(self, paths: StagePaths) -> None:
        """Write both manifests."""
        _write(paths.manifest, self.table)
        if len(self.evaluated_held_out):
            _write(paths.held_out, self.evaluated_held_out)


def _write(path: Path, table: pd.DataFrame) -> None:
    rows = ({str(name): cell for name, cell in row.items()} for row in table.to_dict("records"))
    write_csv(path, list(table.columns), rows)


def read_cohort(config: StudyConfig, models: list[str]) -> StudyCohort:
    """Read the manifest and divide its patients, with every check that the evaluation would make at the end.

    Args:
        config: The study.
        models: The models to evaluate, for the settings of the evaluation.

    Raises:
        UsageError: The manifest, the target, the hold-out or the folds are invalid.
    """
    table = read_manifest(config.manifest)
    if "slide_path" not in table and config.cache is None:
        raise UsageError(
            f"Manifest {config.manifest}: column slide_path is missing; found {', '.join(table.columns)}.",
            hint="Add the slides, or pass their tokens with --cache.",
        )
    whole = read_inputs(table, {str(config.manifest): set(table["slide_id"])}, _reading(config, models))
    held = _held_out(config, table, whole)
    inside = set(whole.cohort.slides[~held].tolist())
    patients_out = set(whole.cohort.patients[held].tolist())
    of_held_out = [whole.patient_of[slide] in patients_out for slide in table["slide_id"]]
    table = table.assign(**{PART: np.where(of_held_out, HELD_OUT, INSIDE)})
    evaluated = table[table["slide_id"].isin(set(whole.cohort.slides[held].tolist()))]
    folds = _folds(config, models, table, inside, evaluated)
    return StudyCohort(
        table,
        evaluated,
        frozenset(inside),
        folds,
        (len(np.unique(whole.cohort.patients[~held])), len(patients_out)),
        whole.notes,
    )


def _reading(config: StudyConfig, models: list[str]) -> MilEvalConfig:
    settings = stages.evaluation(config, MIN_FOLDS, models)
    return replace(
        settings, manifest=config.manifest, where=(), external=(), external_manifest=None,
        allow_missing=config.allow_missing,
    )  # fmt: skip


def _held_out(config: StudyConfig, table: pd.DataFrame, whole: Inputs) -> BoolArray:
    cohort = whole.cohort
    if config.holdout_column is not None:
        if config.holdout_column not in table:
            raise UsageError(
                f"--holdout-column: manifest {config.manifest} has no column {config.holdout_column}.",
                hint=f"Found: {', '.join(table.columns)}.",
            )
        cells = table.set_index("slide_id")[config.holdout_column].loc[cohort.slides.tolist()].to_numpy(np.str_)
        return held_out_by_column(cohort, cells, config.holdout_value, config.holdout_column)
    if not config.holds_out:
        return np.zeros(len(cohort.slides), dtype=np.bool_)
    choose = hold_out_sites if config.by_site else hold_out_patients
    return choose(cohort, config.holdout, config.seed)


def _folds(
    config: StudyConfig, models: list[str], table: pd.DataFrame, inside: set[str], held_out: pd.DataFrame
) -> int:
    """Return the number of folds, after reading and dividing both parts as the evaluation will.

    Raises:
        UsageError: A class has too few patients or sites, or a head cannot learn the task.
    """
    settings = replace(_reading(config, models), where=(f"{PART}={INSIDE}",), allow_missing=True)
    inputs = read_inputs(table, {str(config.manifest): inside}, settings)
    most = most_folds(inputs.cohort, by_site=config.by_site)
    folds = config.folds or max(MIN_FOLDS, min(_MOST_FOLDS, most))
    settings = replace(settings, folds=folds)
    splits, _ = divide(inputs, settings)
    check_heads(inputs.task, inputs.cohort.slides.tolist(), splits, config.aggregator)
    if len(held_out):
        read_external(held_out, {str(config.manifest): set(held_out["slide_id"])}, inputs.task, settings)
    return folds
