"""Several targets of one cohort: read one by one, and split together, so that all have the same folds."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import Problems, UsageError
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.mil.cohort.inputs import read_inputs
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kind import divide, fewer_labels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.splits import Split


@dataclass(frozen=True, eq=False)
class OneTarget:
    """A target with its slides and splits."""

    config: MilEvalConfig
    """Settings, with this target only."""
    inputs: Inputs
    splits: Sequence[Split]
    split_notes: Sequence[str]


def settings_by_target(config: MilEvalConfig) -> list[MilEvalConfig]:
    """Return the settings of each target that is evaluated by itself."""
    from slpd_toolkit.mil.tasks.task import task_class

    if task_class(config.kind).targets_are == "joint" or len(config.target) < 2:
        return [config]
    return [replace(config, target=(name,)) for name in config.target]


def read_targets(
    table: pd.DataFrame, embedded: Mapping[str, Collection[str]], config: MilEvalConfig
) -> list[OneTarget]:
    """Read the targets and divide the cohort; see `read_inputs` and `divide`.

    With several targets, a slide may lack some of them, and is used for the others.

    Raises:
        UsageError: As `read_inputs` and `divide`; or a target has no slide.
    """
    each = settings_by_target(config)
    if len(each) == 1:
        inputs = read_inputs(table, embedded, config)
        splits, notes = divide(inputs, config)
        return [OneTarget(config, inputs, fewer_labels(splits, inputs.cohort, config), notes)]
    without = _slides_without(table, config.target)
    found: list[Inputs] = []
    problems = Problems()
    for settings in each:
        (name,) = settings.target
        with problems.gathered(), _naming(name):
            found.append(_read_one(table, embedded, settings, without[name]))
    problems.raise_any()
    splits, notes = divide(_union(found), config)
    together = []
    for settings, inputs in zip(each, found, strict=True):
        own = [split.restricted_to(inputs.cohort.slides.tolist()) for split in splits]
        together.append(OneTarget(settings, inputs, fewer_labels(own, inputs.cohort, config), notes))
    return together


@contextmanager
def _naming(target: str) -> Iterator[None]:
    """Put the name of a target in front of messages that do not contain it."""
    try:
        yield
    except UsageError as error:
        if target in error.message.replace(":", " ").replace(",", " ").rstrip(".").split():
            raise
        raise UsageError(f"{target}: {error.message}", hint=error.hint) from error


def _slides_without(table: pd.DataFrame, targets: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the slides that lack each target, but not all of them."""
    known = [name for name in targets if name in table]
    has_any = (table[known] != "").any(axis=1)
    return {
        name: frozenset(table.loc[has_any & (table[name] == ""), "slide_id"]) if name in table else frozenset()
        for name in targets
    }


def _read_one(
    table: pd.DataFrame,
    embedded: Mapping[str, Collection[str]],
    settings: MilEvalConfig,
    without: frozenset[str],
) -> Inputs:
    (name,) = settings.target
    if name in table and not (table[name] != "").any():
        raise UsageError(f"No slide has {name}: the column is empty.", hint="Leave this target out.")
    inputs = read_inputs(table, embedded, settings, without)
    if not without:
        return inputs
    has, does = count(len(without), "slide has", "slides have"), agree(len(without), "does", "do")
    note = f"{has} no {name} and {does} not count for it: {listed(sorted(without))}."
    return replace(inputs, notes=(*inputs.notes, note))


def _union(found: Sequence[Inputs]) -> Inputs:
    """Return the slides of all targets, to be divided with the classes of every target balanced."""
    slides = np.unique(np.concatenate([each.cohort.slides for each in found]))
    patients, balance = np.zeros(len(slides), dtype=object), np.full((len(slides), len(found)), "", dtype=object)
    sites = None if found[0].cohort.sites is None else np.zeros(len(slides), dtype=object)
    cells = {name: np.zeros(len(slides), dtype=object) for name in found[0].split_cells}
    for index, each in enumerate(found):
        rows = np.searchsorted(slides, each.cohort.slides)
        patients[rows] = each.cohort.patients
        if each.cohort.strata is not None:
            balance[rows, index] = [f"{each.target}={name}" for name in each.cohort.strata.tolist()]
        for name, column in each.split_cells.items():
            cells[name][rows] = column
        if sites is not None and each.cohort.sites is not None:
            sites[rows] = each.cohort.sites
    cohort = Cohort(
        slides,
        patients.astype(np.str_),
        None,
        None if sites is None else sites.astype(np.str_),
        balance.astype(np.str_),
    )
    return replace(
        found[0], cohort=cohort, split_cells={name: column.astype(np.str_) for name, column in cells.items()}
    )
