"""Every kind of target reads the columns of another cohort for heads that were trained on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.multilabel import MultiLabel
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.regression import Regression
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.readouts import Readout
from slpd_toolkit.mil.tasks.survival_metrics import SurvivalGrid

if TYPE_CHECKING:
    from slpd_toolkit.mil.tasks.task import Task

SETTINGS = MilEvalConfig(manifest=Path("b.csv"), model=("mean-tokens",), out=Path("out"), cache=Path("cache"))
SLIDES = np.array(["s", "t"])


@pytest.mark.parametrize("kind", [Classification, Ordinal])
def test_classes_keep_their_order_and_one_may_be_absent(kind: type[Classification]) -> None:
    task = kind(("low", "high"), np.array([0, 1, 1]))
    other = task.read_other(SLIDES, [np.array(["high", "high"])], SETTINGS)
    assert type(other) is kind
    assert (other.classes, other.targets.tolist()) == (("low", "high"), [1, 1])
    with pytest.raises(UsageError, match="classes that the training cohort does not have"):
        task.read_other(SLIDES, [np.array(["high", "middle"])], SETTINGS)


def test_labels_keep_their_values_and_other_targets_are_read_as_usual() -> None:
    labels = MultiLabel(("x", "y"), (("no", "yes"), ("0", "1")), np.zeros((3, 2), np.int64))
    other = labels.read_other(SLIDES, [np.array(["yes", ""]), np.array(["1", "1"])], SETTINGS)
    assert isinstance(other, MultiLabel)
    assert other.targets.tolist() == [[1, 1], [-1, 1]]
    number: Task = Regression(np.arange(3.0)).read_other(SLIDES, [np.array(["1.5", "2"])], SETTINGS)
    assert isinstance(number, Regression)
    assert number.values.tolist() == [1.5, 2.0]


def test_survival_is_read_at_the_times_of_the_other_cohort() -> None:
    other = Survival(np.arange(1.0, 9.0), np.ones(8, np.bool_))
    readout = Readout("risk", grid=SurvivalGrid(np.array([0.0, 4, 8]), np.array([1.0, 2])))
    found = other.adapt_readout(readout).grid
    assert found is not None
    assert found.times.tolist() == other.grid.tolist()
    assert found.knots.tolist() == [0.0, 4, 8]
    assert other.adapt_readout(Readout("risk")).grid is None
    assert Regression(np.arange(3.0)).adapt_readout(readout) is readout
