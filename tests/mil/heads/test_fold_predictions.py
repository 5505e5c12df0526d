from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from slpd_toolkit.config.mil_eval import AGGREGATORS
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction, run_folds
from slpd_toolkit.mil.heads.head import load_head
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from tests.mil.planted import make_cohort, planted_bags, task_of

if TYPE_CHECKING:
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.tasks.task import Task

COHORT = make_cohort([1, 2] * 15, ["a", "b", "c"] * 10)
BAGS = planted_bags(COHORT, signal=2.0)
TASK = task_of(COHORT)
SPLITS = cross_validation(COHORT, folds=3)
SHORT = HeadTraining(steps=6, check_every=3, batch_size=8, learning_rate=5e-3)
LONG = dataclasses.replace(SHORT, steps=80, check_every=10, batch_size=16, patience=3)
every_aggregator = pytest.mark.parametrize("aggregator", AGGREGATORS.names())


def run(
    aggregator: str,
    bags: Bags = BAGS,
    task: Task = TASK,
    splits: list[Split] = SPLITS,
    training: HeadTraining = SHORT,
    jobs: int = 1,
) -> list[FoldPrediction]:
    return list(run_folds(bags, task, splits, aggregator, training=training, seed=3, jobs=jobs))


def run_one(split: Split, aggregator: str, bags: Bags = BAGS, task: Task = TASK, seed: int = 3) -> FoldPrediction:
    (prediction,) = run_folds(bags, task, [split], aggregator, training=SHORT, seed=seed, jobs=1)
    return prediction


def assert_same(first: FoldPrediction, second: FoldPrediction) -> None:
    assert (first.repeat, first.fold, first.setting, first.checks) == (
        second.repeat,
        second.fold,
        second.setting,
        second.checks,
    )
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.outputs, second.outputs)
    for one, other in zip(first.attention, second.attention, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@every_aggregator
def test_each_slide_is_predicted_once_by_a_head_that_did_not_see_it(aggregator: str) -> None:
    predictions = run(aggregator)
    assert sorted(np.concatenate([each.rows for each in predictions]).tolist()) == list(range(45))
    for split, each in zip(SPLITS, predictions, strict=True):
        assert (each.repeat, each.fold) == (split.repeat, split.fold)
        assert tuple(BAGS.slides[row] for row in each.rows) == split.test
        assert each.outputs.shape == (len(split.test), 3)
        np.testing.assert_allclose(each.outputs.sum(axis=1), 1, atol=1e-5)
        assert [len(weights) for weights in each.attention] in ([], BAGS.sizes[each.rows].tolist())
        assert bool(each.checks) == bool(each.attention) == load_head(aggregator).in_workers


@pytest.mark.slow
@every_aggregator
def test_test_slides_and_test_labels_never_reach_the_head(aggregator: str) -> None:
    """The prediction of a test slide is bit-identical whatever the other test slides contain."""
    (split,) = SPLITS[:1]
    train, _val, test = (BAGS.index_of(part) for part in split.parts.values())
    before = run_one(split, aggregator)
    spoilt = BAGS.features.copy()
    spoilt[BAGS.regions_of(test[1:])] = 1e3
    targets = TASK.targets.copy()
    targets[test] = (targets[test] + 1) % 3
    other = dataclasses.replace(TASK, targets=targets)
    after = run_one(split, aggregator, dataclasses.replace(BAGS, features=spoilt), other)
    # Batches are padded to their largest bag: the same sums, in another order.
    np.testing.assert_allclose(after.outputs[0], before.outputs[0], rtol=1e-5)
    assert after.checks == before.checks
    assert after.setting == before.setting
    # While other training labels are felt.
    targets[train] = (targets[train] + 1) % 3
    felt = run_one(split, aggregator, task=dataclasses.replace(TASK, targets=targets))
    assert np.abs(felt.outputs[0] - before.outputs[0]).max() > 1e-3


def test_time_bins_do_not_know_the_times_of_test_slides() -> None:
    rng = np.random.default_rng(0)
    task = Survival(rng.exponential(size=45), rng.random(45) < 0.8)
    before = run_one(SPLITS[0], "abmil", task=task)
    times = task.times.copy()
    times[before.rows] *= 100
    after = run_one(SPLITS[0], "abmil", task=dataclasses.replace(task, times=times))
    # Survival curves are evaluated at times that depend on the whole cohort; risks do not depend on them.
    risks = [dataclasses.replace(each, outputs=each.outputs[:, :1]) for each in (before, after)]
    assert_same(*risks)
    assert before.outputs.shape == (len(before.rows), 1 + len(task.grid))


@pytest.mark.parametrize("aggregator", ["abmil", "hipt", "knn"])
def test_one_seed_gives_one_result_and_leaves_the_callers_generator_alone(aggregator: str) -> None:
    torch.manual_seed(7)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = run_one(SPLITS[1], aggregator)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(8)
    assert_same(first, run_one(SPLITS[1], aggregator))


def test_the_seed_the_repeat_and_the_fold_decide_the_weights() -> None:
    split = SPLITS[1]
    others = [
        run_one(each, "abmil", seed=seed).outputs
        for each, seed in [
            (split, 5),
            (split, 6),
            (dataclasses.replace(split, repeat=1), 5),
            (dataclasses.replace(split, fold=4), 5),
        ]
    ]
    assert len({outputs.tobytes() for outputs in others}) == 4


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    for alone, beside in zip(run("abmil"), run("abmil", jobs=2), strict=True):
        assert_same(alone, beside)


@pytest.mark.parametrize(
    ("aggregator", "split", "message"),
    [
        ("abmill", SPLITS[0], "--aggregator: got abmill, allowed: abmil, clam-sb, ds-mil, hipt, knn, mean-mlp, probe"),
        ("abmil", dataclasses.replace(SPLITS[0], val=()), "Repeat 0, fold 0: val is empty"),
        ("knn", dataclasses.replace(SPLITS[0], test=("elsewhere",)), "1 slide has no embedding: elsewhere"),
        ("knn", dataclasses.replace(SPLITS[0], train=("p000-0", "p001-0")), "no slides of c"),
    ],
)
def test_what_cannot_be_run_is_refused(aggregator: str, split: Split, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(aggregator, splits=[split])


def mean_auc(aggregator: str, cohort: Cohort, split_by: Cohort, bags: Bags, folds: int) -> float:
    task, splits = task_of(cohort), cross_validation(split_by, folds=folds)
    predictions = run(aggregator, bags, task, splits, LONG)
    return float(np.mean([task.metrics(each.rows, each.outputs)["auc"] for each in predictions]))


@pytest.mark.slow
@every_aggregator
def test_a_perfect_signal_is_found(aggregator: str) -> None:
    cohort = make_cohort([1] * 60, ["a", "b"] * 30)
    bags, task = planted_bags(cohort, signal=12.0), task_of(cohort)
    (found,) = run(aggregator, bags, task, cross_validation(cohort, folds=3)[:1], LONG)
    assert task.metrics(found.rows, found.outputs)["auc"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["knn", "probe", pytest.param("abmil", marks=pytest.mark.slow)])
def test_what_marks_the_patient_leaks_through_splits_of_slides_and_not_through_ours(aggregator: str) -> None:
    """Six slides per patient, all with its mark, and random labels per patient: there is nothing to learn."""
    cohort = make_cohort([6] * 24, ["a", "b"] * 12)
    bags = planted_bags(cohort, signal=0.0, patient_mark=3.0, width=24)
    slides_alone = Cohort(cohort.slides, cohort.slides, cohort.strata)
    assert mean_auc(aggregator, cohort, slides_alone, bags, folds=6) > 0.95
    assert 0.25 < mean_auc(aggregator, cohort, cohort, bags, folds=6) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("name", ["histogram", "mixture", "transport"])
def test_a_descriptor_is_fitted_on_the_training_slides_of_each_fold(name: str) -> None:
    """Predictions do not depend on other test slides."""
    descriptor = ChosenDescriptor(name, 3)

    def predictions(of: Bags) -> FoldPrediction:
        (fold,) = run_folds(of, TASK, SPLITS[:1], "probe", descriptor=descriptor, training=SHORT, seed=0, jobs=1)
        return fold

    before = predictions(BAGS)
    features = BAGS.features.copy()
    features[BAGS.regions_of(before.rows[:1])] = 1e3
    after = predictions(dataclasses.replace(BAGS, features=features))
    np.testing.assert_array_equal(after.outputs[1:], before.outputs[1:])
    assert not np.array_equal(after.outputs[0], before.outputs[0])


def test_a_probe_on_the_histogram_is_the_prototype_histogram() -> None:
    (described,) = run_folds(
        BAGS, TASK, SPLITS[:1], "probe", descriptor=ChosenDescriptor("histogram"), training=SHORT, seed=3, jobs=1
    )
    np.testing.assert_array_equal(described.outputs, run("prototype-histogram", splits=SPLITS[:1])[0].outputs)
