"""Reading an external cohort: its manifest against its embeddings, with the classes of the training cohort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.mil.cohort.patients import Cohort

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.arrays import StrArray
    from slpd_toolkit.mil.tasks.task import Task

_PATIENT = "patient_id"
_FLAG = "--external-manifest"


@dataclass(frozen=True, eq=False)
class ExternalInputs:
    """The slides of an external cohort that can be evaluated, sorted by ID."""

    task: Task
    cohort: Cohort
    sites: StrArray | None
    """(N,) site of each slide; None if the manifest has no site column."""
    notes: tuple[str, ...]


def read_external(
    table: pd.DataFrame,
    embedded: Mapping[str, Collection[str]],
    task: Task,
    config: MilEvalConfig,
    *,
    lenient: bool = False,
) -> ExternalInputs:
    """Read the targets of an external cohort.

    Args:
        table: Its manifest.
        embedded: Slides with embeddings, by the name of their source in messages.
        task: Targets of the training cohort.
        config: Names of columns, and whether slides may be missing.
        lenient: Slides may lack the target, because they may have another one.

    Raises:
        UsageError: A column is missing, slides have no target or no embedding (unless slides may be missing), no slide
            is left, targets are invalid, or there are classes that the training cohort does not have.
    """
    columns = type(task).columns(config)
    absent = [name for name in columns if name not in table]
    if absent:
        raise UsageError(f"{_FLAG}: column {', '.join(absent)} not found.", hint=f"Found: {', '.join(table.columns)}.")
    table = table.set_index("slide_id", drop=False).sort_index()
    filled = table[columns] != ""
    labelled = filled.any(axis=1) if task.targets_are == "joint" else filled.all(axis=1)
    available = table.index.isin(set.intersection(*map(set, embedded.values())))
    findings, notes = list[str](), list[str]()
    if not labelled.all():
        bare = table.index[~labelled]
        has = count(len(bare), "external slide has", "external slides have")
        found = f"{has} no {' or no '.join(columns)}: {listed(bare)}."
        (notes if lenient else findings).append(found)
    for source, slides in embedded.items():
        without = table.index[labelled & ~table.index.isin(list(slides))]
        if len(without):
            findings.append(
                f"{count(len(without), 'external slide is', 'external slides are')} not in {source}: {listed(without)}."
            )
    usable = labelled & available
    if not usable.any():
        raise UsageError(
            f"{_FLAG}: no slide has both a target and an embedding. {' '.join([*notes, *findings])}",
            hint="Compare the slide IDs of the external manifest with those of the external embeddings.",
        )
    if findings and not config.allow_missing:
        raise UsageError(" ".join(findings), hint="Use --allow-missing to leave them out.")
    chosen = table[usable]
    slides = chosen.index.to_numpy(np.str_)
    patients = slides
    if _PATIENT in chosen:
        patients = chosen[_PATIENT].mask(chosen[_PATIENT] == "", chosen.index.to_series()).to_numpy(np.str_)
    else:
        findings.append("The external manifest has no column patient_id: every slide counts as a separate patient.")
    try:
        other = task.read_other(slides, [chosen[name].to_numpy(np.str_) for name in columns], config)
        other.check_patients(patients)
    except UsageError as error:  # as of the training cohort, whose slides may have the same IDs
        raise UsageError(f"{_FLAG}, {', '.join(columns)}: {error.message}", hint=error.hint) from error
    strata = other.strata if len(np.unique(other.strata)) > 1 else None
    sites = chosen[config.site_column].to_numpy(np.str_) if config.site_column in chosen else None
    if sites is not None and (sites == "").any():
        has = count(int((sites == "").sum()), "external slide has", "external slides have")
        findings.append(f"{has} no {config.site_column}: {listed(slides[sites == ''])}.")
    return ExternalInputs(other, Cohort(slides, patients, strata), sites, (*notes, *findings))
