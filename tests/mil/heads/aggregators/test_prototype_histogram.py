from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.cluster import KMeans

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.aggregators.prototype_histogram import PrototypeHistogram
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.classification import Classification

RNG = np.random.default_rng(0)


def prototype_histogram(bags: Bags, train: np.ndarray, *, prototypes: int, seed: int = 0) -> np.ndarray:
    """Fit on `train`, and compute the histograms of all slides."""
    vectors = PrototypeHistogram(prototypes)
    return vectors.compute(vectors.fit(bags, train, seed), bags, np.arange(len(bags.slides)))


SIZES = (9, 4, 12, 7, 10, 5)
BAGS = Bags.pack({f"s{number}": RNG.normal(size=(size, 3)) * [1, 30, 0.1] + 5 for number, size in enumerate(SIZES)})
TRAIN = np.array([0, 2, 3, 4])


def test_equals_its_formula() -> None:
    known = BAGS.features[BAGS.regions_of(TRAIN)].astype(np.float64)
    x = (BAGS.features - known.mean(axis=0)) / known.std(axis=0)
    inside = x[BAGS.regions_of(TRAIN)].astype(np.float32)
    centroids = KMeans(4, n_init=3, random_state=7).fit(inside).cluster_centers_
    width = np.square(inside[:, None] - centroids).sum(-1).min(1).mean()
    shares = softmax(-np.square(x[:, None] - centroids).sum(-1) / width, axis=1)
    expected = [part.mean(axis=0) for part in np.split(shares, np.cumsum(SIZES)[:-1])]
    found = prototype_histogram(BAGS, TRAIN, prototypes=4, seed=7)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_prototypes_come_from_training_regions_alone() -> None:
    spoilt = BAGS.features.copy()
    spoilt[BAGS.regions_of(np.array([1, 5]))] = 1e3
    before = prototype_histogram(BAGS, TRAIN, prototypes=4)
    after = prototype_histogram(dataclasses.replace(BAGS, features=spoilt), TRAIN, prototypes=4)
    np.testing.assert_array_equal(before[TRAIN], after[TRAIN])
    assert not np.array_equal(before[1], after[1])


def test_separate_clusters_are_counted() -> None:
    """For well-separated clusters, the histogram consists of plain fractions."""
    kinds = [np.array([0, 0, 1]), np.array([1, 2, 2, 2]), np.array([0, 1, 2, 2])]
    corners = 100 * np.eye(3)
    bags = Bags.pack({f"s{i}": corners[kind] + RNG.normal(size=(len(kind), 3)) for i, kind in enumerate(kinds)})
    found = prototype_histogram(bags, np.arange(3), prototypes=3)
    counts = np.stack([np.bincount(kind, minlength=3) / len(kind) for kind in kinds])
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(counts, axis=1), atol=1e-6)


def test_fewer_regions_than_prototypes_and_equal_regions_are_no_trouble() -> None:
    found = prototype_histogram(BAGS, np.array([1]), prototypes=16)
    assert found.shape == (6, 4)
    alike = dataclasses.replace(BAGS, features=np.ones_like(BAGS.features))
    np.testing.assert_allclose(prototype_histogram(alike, TRAIN, prototypes=4), 0.25)


@pytest.mark.parametrize(("aggregator", "least", "most"), [("prototype-histogram", 0.9, 1.0), ("probe", 0.3, 0.7)])
def test_tells_slides_of_equal_means_apart(aggregator: str, least: float, most: float) -> None:
    """Regions are at two opposite corners or at the other two, so that the mean of all slides is zero."""
    targets = np.arange(60) % 2
    corners = np.array([[[5, 5], [-5, -5]], [[5, -5], [-5, 5]]])
    loose = {
        f"s{number:02}": np.repeat(corners[target], 6, axis=0) + RNG.normal(size=(12, 2))
        for number, target in enumerate(targets)
    }
    task = Classification(("a", "b"), targets.astype(np.int64))
    names = np.array(list(loose))
    splits = cross_validation(Cohort(names, names, task.strata), folds=5)
    folds = run_folds(Bags.pack(loose), task, splits, aggregator, training=HeadTraining(), seed=0, jobs=1)
    auc = np.mean([task.metrics(fold.rows, fold.outputs)["auc"] for fold in folds])
    assert least <= auc <= most
