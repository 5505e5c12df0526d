"""A stored head repeats the predictions of the evaluation, slide by slide, to the last bit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.config.mil_eval import AGGREGATORS
from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.head import HeadState, PartRows, load_head
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from tests.mil.planted import make_cohort, planted_bags, task_of

if TYPE_CHECKING:
    from slpd_toolkit.mil.tasks.task import Task

COHORT = make_cohort([1, 2] * 12, ["a", "b", "c"] * 8)
BAGS = planted_bags(COHORT, signal=2.0)
CLASSES = task_of(COHORT)
RNG = np.random.default_rng(0)
TASKS: dict[str, Task] = {
    "classes": CLASSES,
    "grades": Ordinal(CLASSES.classes, CLASSES.targets),
    "survival": Survival(RNG.exponential(size=len(BAGS.slides)), RNG.random(len(BAGS.slides)) < 0.7),
}
(SPLIT, *_) = cross_validation(COHORT, folds=3)
SHORT = HeadTraining(steps=10, check_every=5, batch_size=16, learning_rate=5e-3)
CASES = [
    (aggregator, task)
    for aggregator in AGGREGATORS.names()
    for task in TASKS
    if (aggregator, task) != ("clam-sb", "survival")
]


def alone(row: int) -> Bags:
    """Return the bag of a single slide."""
    return Bags.pack({BAGS.slides[row]: BAGS.features[BAGS.offsets[row] : BAGS.offsets[row + 1]]})


@pytest.mark.slow
@pytest.mark.parametrize(("aggregator", "task"), CASES)
def test_a_stored_head_repeats_the_evaluation(aggregator: str, task: str) -> None:
    (fold,) = run_folds(BAGS, TASKS[task], [SPLIT], aggregator, training=SHORT, seed=3, jobs=1)
    assert fold.kept is not None
    state, head = fold.kept.state, load_head(aggregator)
    means = Bags.pack(dict(zip(BAGS.slides, BAGS.mean()[:, None], strict=True)))  # all that a bundle keeps of them
    known = means if head.compares else None
    for place, row in enumerate(fold.rows[:4].tolist()):
        logits, attention = head.apply(state, alone(row), np.array([0]), known)
        outputs = fold.kept.readout.one_by_one(logits)
        np.testing.assert_array_equal(outputs[0], fold.outputs[place])
        if fold.attention:
            np.testing.assert_array_equal(attention[0], fold.attention[place])
    np.testing.assert_array_equal(fold.kept.val_rows, BAGS.index_of(SPLIT.val))
    again, _ = head.apply(state, BAGS, fold.kept.val_rows)
    np.testing.assert_array_equal(again.double().numpy(), fold.kept.val_logits)


@pytest.mark.parametrize("aggregator", ["abmil", "knn", "probe", "prototype-histogram"])
def test_a_head_can_be_trained_on_everybody_with_a_typical_setting(aggregator: str) -> None:
    head, rows = load_head(aggregator), np.arange(len(BAGS.slides))
    train, val, test = (BAGS.index_of(part) for part in SPLIT.parts.values())
    objective = CLASSES.objective(train)
    selected = head.fit(BAGS, objective, PartRows(train, val, test), SHORT, (1, 2)).setting
    everybody = CLASSES.objective(rows)
    final = head.refit(BAGS, everybody, rows, SHORT, (1, 2), [selected] * 3)
    assert final.setting == selected or (aggregator == "abmil" and final.setting.startswith("step "))
    logits, _ = head.apply(final.state, BAGS, rows)
    assert logits.shape == (len(rows), 3)


def test_tensors_of_another_head_are_refused_before_anything_is_allocated() -> None:
    (fold,) = run_folds(BAGS, CLASSES, [SPLIT], "abmil", training=SHORT, seed=3, jobs=1)
    assert fold.kept is not None
    state = fold.kept.state
    huge = HeadState(state.tensors, {**state.options, "width": 1 << 40})
    lacking = dataclasses.replace(
        state, tensors={name: tensor for name, tensor in state.tensors.items() if "classifier" not in name}
    )
    for wrong in (huge, lacking, dataclasses.replace(state, options={"depth": 3})):
        with pytest.raises(WeightsError, match="not those of AttentionMil"):
            load_head("abmil").apply(wrong, BAGS, np.array([0]))
