"""The vectorised simulations compute what the product computes for one cohort."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated.cohorts import Design, Layout, embed, lay_out, predict
from benchmarks.simulated.evidence import areas, division_of
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.evaluation import Judgement, judge
from slpd_toolkit.mil.tasks.kinds.classification import Classification


def as_product(layout: Layout, scores: np.ndarray) -> Judgement:
    """Judge one cohort's (R, N) scores with the product."""
    names = np.array([f"{row:03}" for row in range(len(layout.labels))])
    sites = layout.units.astype(np.str_) if layout.by_site else None
    cohort = Cohort(names, names, np.array(["no", "yes"])[layout.labels], sites)
    splits, folds = [], []
    for repeat in range(len(layout.fold_of)):
        for fold in range(layout.folds):
            parts = layout.parts(repeat, fold)
            train, val, test = (tuple(names[part].tolist()) for part in parts)
            splits.append(Split(fold, train, val, test, repeat))
            chance = np.round(1 / (1 + np.exp(-scores[repeat, parts[2]])), 12)
            outputs = np.stack([1 - chance, chance], axis=1)
            folds.append(FoldPrediction(repeat, fold, parts[2], outputs, len(train), ""))
    task = Classification(("no", "yes"), layout.labels)
    return judge(task, cohort, splits, folds, by_site=layout.by_site)


@pytest.mark.parametrize(
    "design",
    [Design(90, 0.4, 3, 2), pytest.param(Design(90, 0.5, 3, 1, sites=9), id="by site")],
)
@pytest.mark.parametrize("head", ["probe", "knn"])
def test_areas_influences_and_contributions_are_the_products(design: Design, head: str) -> None:
    rng = np.random.default_rng(0)
    layout = lay_out(design, rng)
    (features,) = embed(layout, design, (1.0,), 2, rng)
    scores = predict(head, features, layout)
    found, division = areas(scores, layout), division_of(layout)
    for cohort in range(2):
        product, ours = as_product(layout, scores[:, cohort]), found.evidence(cohort, layout)
        expected = product.evidence["auc"]
        np.testing.assert_allclose(ours.values, expected.values)
        np.testing.assert_array_equal(division.trained, product.division.trained)
        np.testing.assert_array_equal(division.tested, product.division.tested)
        np.testing.assert_allclose(ours.influence, expected.influence, atol=1e-6)
        np.testing.assert_allclose(ours.contributions, expected.contributions, atol=1e-12)
        assert ours.unexplained == pytest.approx(expected.unexplained)


def test_a_signal_reaches_the_area_that_the_distance_implies() -> None:
    design = Design(150, 0.5, 5, 1)
    rng = np.random.default_rng(1)
    layout = lay_out(design, rng)
    (features,) = embed(layout, design, (2.2,), 20, rng)
    assert areas(predict("probe", features, layout), layout).values.mean() == pytest.approx(0.9, abs=0.03)
