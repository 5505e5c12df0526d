from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slpd_toolkit.config.mil_eval import AGGREGATORS, MilEvalConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.heads.folds import AGGREGATORS as KNOWN


def config(**values: Any) -> MilEvalConfig:
    return MilEvalConfig(**{"manifest": Path("m.csv"), "out": Path("out"), "model": ("untrained",), **values})


def test_the_aggregators_that_are_allowed_are_those_there_are() -> None:
    assert set(AGGREGATORS) == set(KNOWN)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "classification"),
        ({"task": "ordinal"}, "ordinal"),
        ({"task": "survival"}, "survival"),
        ({"time_column": "months"}, "survival"),
        ({"event_column": "dead"}, "survival"),
    ],
)
def test_the_task_follows_from_the_columns(values: dict[str, Any], kind: str) -> None:
    assert config(**values).kind == kind


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": ()}, "--model: got none"),
        ({"model": ("a", "b", "a")}, "--model: got a twice"),
        ({"aggregator": ("abmill",)}, "--aggregator: got abmill, allowed: knn, probe"),
        ({"aggregator": ()}, "--aggregator: got none"),
        ({"aggregator": ("knn", "knn")}, "--aggregator: got knn twice"),
        ({"folds": 2}, "--folds: got 2, allowed: at least 3"),
        ({"repeats": 0}, "--repeats: got 0"),
        ({"seed": -1}, "--seed: got -1"),
        ({"lr": 0.0}, "--lr: got 0.0"),
        ({"train_fraction": 0.0}, "--train-fraction: got 0.0"),
        ({"train_fraction": 0.5, "shots": 3}, "--shots with --train-fraction: got 3 and 0.5, allowed: one of them"),
        ({"splits": (Path("s"),), "fold_column": "fold"}, "--splits with --fold-column: got both"),
        ({"splits": (Path("s"),), "repeats": 2}, "--repeats: got 2, allowed: only where"),
        ({"fold_column": "fold", "by_site": True}, "--by-site: got True, allowed: only where"),
        ({"task": "ordinal", "time_column": "t"}, "--time-column: got t, allowed: only with --task survival"),
        ({"task": "survival", "classes": ("a", "b")}, "--classes: got a, b, allowed: none with survival"),
        ({"task": "survival", "aggregator": ("clam-sb",)}, "--aggregator: got clam-sb"),
        ({"time_bins": 1}, "--time-bins: got 1"),
        ({"bootstrap": 0}, "--bootstrap: got 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(**values)
