from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.core.errors import UsageError


def config(**values: Any) -> MilEvalConfig:
    return MilEvalConfig(**{"manifest": Path("m.csv"), "out": Path("out"), "model": ("untrained",), **values})


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
        ({"model": ("a", "b", "a")}, "--model: got a more than once"),
        ({"aggregator": ("abmill",)}, "--aggregator: got abmill, allowed: abmil, clam-sb"),
        ({"aggregator": ()}, "--aggregator: got none"),
        ({"aggregator": ("knn", "knn")}, "--aggregator: got knn more than once"),
        ({"folds": 2}, "--folds: got 2, allowed: at least 3"),
        ({"repeats": 0}, "--repeats: got 0"),
        ({"sensitivity": 1.5}, "--sensitivity: got 1.5, allowed: above 0, up to 1"),
        ({"sensitivity": 0.9, "task": "survival"}, "--sensitivity: got 0.9, allowed: only with --task classification"),
        ({"seed": -1}, "--seed: got -1"),
        ({"lr": 0.0}, "--lr: got 0.0"),
        ({"train_fraction": 0.0}, "--train-fraction: got 0.0"),
        (
            {"train_fraction": 0.5, "shots": 3},
            "--shots with --train-fraction: got 3 and 0.5, allowed: only one of them",
        ),
        ({"splits": (Path("s"),), "fold_column": "fold"}, "--splits with --fold-column: got both"),
        ({"splits": (Path("s"),), "repeats": 2}, "--repeats: got 2, allowed: only with --split-kind cross-validation"),
        (
            {"fold_column": "fold", "by_site": True},
            "--by-site: got True, allowed: only with --split-kind cross-validation",
        ),
        ({"task": "ordinal", "time_column": "t"}, "--time-column: got t, allowed: only with --task survival"),
        (
            {"task": "survival", "classes": ("a", "b")},
            "--classes: got a, b, allowed: only with --task classification or ordinal",
        ),
        ({"task": "grades"}, "--task: got grades, allowed: classification, multilabel, ordinal, regression, survival"),
        ({"split_kind": "loo"}, "--split-kind: got loo, allowed: cross-validation, fold-column, split-files"),
        ({"split_kind": "fold-column", "splits": (Path("s"),)}, "--splits: got s, allowed: only with --split-kind"),
        ({"time_bins": 1}, "--time-bins: got 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(**values)
