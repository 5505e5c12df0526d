"""The task of one cohort for another: the same classes, and outputs at the other's evaluation times."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.multilabel import MultiLabel, read_labels
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.targets import read_known_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.arrays import StrArray
    from slpd_toolkit.mil.tasks.readouts import Readout
    from slpd_toolkit.mil.tasks.task import Task


def read_other(task: Task, slides: StrArray, cells: Sequence[StrArray], settings: MilEvalConfig) -> Task:
    """Read the target columns of another cohort, with the classes of `task`; arguments as in `Task.read`.

    Raises:
        UsageError: Invalid cells, or classes that the cohort of `task` does not have.
    """
    if isinstance(task, Classification):  # a class may have no slides
        return dataclasses.replace(task, targets=read_known_classes(slides, cells[0], task.classes))
    if isinstance(task, MultiLabel):
        return dataclasses.replace(task, targets=read_labels(slides, cells, task.values))
    return type(task).read(slides, cells, settings)


def adapt_readout(task: Task, readout: Readout) -> Readout:
    """Return how a head that was trained on another cohort is read so that its outputs fit `task`."""
    if readout.grid is None or not isinstance(task, Survival):
        return readout
    return dataclasses.replace(readout, grid=dataclasses.replace(readout.grid, times=task.grid))
