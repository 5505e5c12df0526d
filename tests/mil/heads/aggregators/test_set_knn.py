from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.heads.training_sets import small_sets
from slpd_toolkit.mil.tasks.kinds.classification import Classification

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("aggregator", "size"), [("set-knn", 4), ("set-probe", 12), ("set-knn", 12)])
def test_tells_slides_of_equal_means_apart(aggregator: str, size: int) -> None:
    """Regions at two opposite corners, or at the other two: all slides have the mean zero."""
    targets = np.arange(60) % 2
    corners = np.array([[[5, 5], [-5, -5]], [[5, -5], [-5, 5]]])
    loose = {
        f"s{number:02}": np.repeat(corners[target], size // 2, axis=0) + RNG.normal(size=(size, 2))
        for number, target in enumerate(targets)
    }
    task = Classification(("a", "b"), targets.astype(np.int64))
    names = np.array(list(loose))
    splits = cross_validation(Cohort(names, names, task.strata), folds=3)
    bags = Bags.pack(loose)
    folds = run_folds(bags, task, splits, aggregator, training=HeadTraining(), seed=0, jobs=1)
    auc = np.mean([task.metrics(fold.rows, fold.outputs)["auc"] for fold in folds])
    assert auc >= 0.95
    assert small_sets(bags).sizes.max() == 4


def test_neighbours_are_those_of_the_largest_similarity() -> None:
    """One vector per slide: two directions, which lengths do not change."""
    angles = np.repeat([0.0, 2.0], 10) + RNG.normal(size=20) * 0.1
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * RNG.uniform(0.1, 9, size=(20, 1))
    bags = Bags.pack({f"s{i:02}": vector[None] for i, vector in enumerate(vectors)})
    task = Classification(("a", "b"), np.repeat([0, 1], 10).astype(np.int64))
    names = np.array(bags.slides)
    splits = cross_validation(Cohort(names, names, task.strata), folds=4)[:1]
    (fold,) = run_folds(bags, task, splits, "set-knn", training=HeadTraining(), seed=0, jobs=1)
    assert task.metrics(fold.rows, fold.outputs)["auc"] == 1
