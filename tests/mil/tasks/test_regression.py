from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.kinds.regression import Regression
from slpd_toolkit.mil.tasks.readouts import Readout
from slpd_toolkit.mil.tasks.regression_metrics import weighted_metrics
from slpd_toolkit.mil.tasks.scatter import line_with_band, patient_means
from slpd_toolkit.mil.tasks.targets import quantile_strata, read_values
from slpd_toolkit.mil.tasks.weighted_ranks import weight_below

RNG = np.random.default_rng(0)
VALUES = np.round(50 + 8 * RNG.normal(size=60), 0)  # with ties
PREDICTED = np.round(VALUES + 6 * RNG.normal(size=60), 0)


def test_metrics_are_those_of_scipy_and_scikit_learn() -> None:
    found = Regression(VALUES).metrics(np.arange(60), PREDICTED[:, None])
    assert found["spearman"] == pytest.approx(stats.spearmanr(VALUES, PREDICTED).statistic)
    assert found["r2"] == pytest.approx(r2_score(VALUES, PREDICTED))
    assert found["mae"] == pytest.approx(mean_absolute_error(VALUES, PREDICTED))


def test_a_weight_is_a_copy() -> None:
    counts = RNG.integers(0, 3, size=(4, 60))
    weighted = weighted_metrics(VALUES, PREDICTED, counts.astype(np.float64))
    for number, weights in enumerate(counts):
        copies = np.repeat(np.arange(60), weights)
        once = weighted_metrics(VALUES[copies], PREDICTED[copies], np.ones((1, len(copies))))
        for name, values in weighted.items():
            assert values[number] == pytest.approx(once[name][0]), name
    ranks = weight_below(PREDICTED, np.ones((1, 60)))[0]
    np.testing.assert_allclose(ranks, stats.rankdata(PREDICTED) - 0.5)


def test_equal_values_have_neither_correlation_nor_r2() -> None:
    found = weighted_metrics(np.full(5, 0.1), np.arange(5.0), np.ones((1, 5)))
    assert np.isnan([found["spearman"][0], found["r2"][0]]).all()
    assert np.isnan(weighted_metrics(np.arange(5.0), np.full(5, 0.1), np.ones((1, 5)))["spearman"][0])


def test_values_are_standardized_by_train_and_predicted_in_their_own_unit() -> None:
    train = np.arange(40)
    objective = Regression(VALUES).objective(train)
    mean, sd = VALUES[train].mean(), VALUES[train].std()
    rows, logits = torch.tensor([3, 50]), torch.tensor([[0.5], [-1.0]])
    expected = ((VALUES[rows] - mean) / sd - logits[:, 0].numpy()) ** 2
    np.testing.assert_allclose(objective.loss(logits, rows).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(objective.predict(logits)[:, 0].numpy(), [mean + 0.5 * sd, mean - sd], rtol=1e-6)
    shares = torch.zeros(1, 2)
    shares[0] = 0.5
    np.testing.assert_allclose(objective.predict(objective.estimate(shares, rows))[0, 0], VALUES[rows].mean())
    with pytest.raises(UsageError, match="All values of a training part are 1"):
        Regression(np.append(np.ones(4), 2.0)).objective(np.arange(4))


def test_the_linear_model_is_ridge_on_the_values_themselves() -> None:
    embeddings, train = RNG.normal(size=(60, 3)), np.arange(60)
    objective = Regression(VALUES).objective(train)
    model = objective.fit_linear(embeddings, torch.from_numpy(train), 0.05)
    expected = Ridge(10.0).fit(embeddings, VALUES).predict(embeddings)
    np.testing.assert_allclose(objective.readout.one_by_one(model(embeddings))[:, 0], expected, rtol=1e-5)


def test_a_column_holds_finite_numbers_that_differ() -> None:
    slides = np.array(["s0", "s1", "s2"])
    assert read_values(slides, np.array(["1", " 2.5", "-3e2"]), "dose").tolist() == [1, 2.5, -300]
    with pytest.raises(UsageError, match=r"2 slides have no valid dose: s1 \('high'\), s2 \('inf'\)"):
        read_values(slides, np.array(["1", "high", "inf"]), "dose")
    with pytest.raises(UsageError, match=r"s1 \('1e31'\), s2 \('-1e400'\).*from -1e30 to 1e30"):
        read_values(slides, np.array(["1e30", "1e31", "-1e400"]), "dose")
    with pytest.raises(UsageError, match="All slides have dose 4"):
        read_values(slides, np.array(["4", "4.0", "4"]), "dose")
    with pytest.raises(UsageError, match="1 patient has more than one value: p"):
        Regression(np.array([1.0, 2, 3])).check_patients(np.array(["p", "p", "q"]))


def test_values_far_from_0_keep_their_differences() -> None:
    readout = Readout("identity", None, 1e9, 0.5)
    assert readout.one_by_one(torch.tensor([[0.0], [1.0]]))[:, 0].tolist() == [1e9, 1e9 + 0.5]


def test_strata_are_quarters() -> None:
    assert quantile_strata(np.arange(8.0)).tolist() == [f"{quarter} of 4" for quarter in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert quantile_strata(np.array([0.0, 0, 0, 1])).tolist() == ["1 of 3", "1 of 3", "1 of 3", "3 of 3"]


def test_the_band_is_that_of_the_textbook() -> None:
    x, y = PREDICTED.astype(np.float64), VALUES
    fit = stats.linregress(x, y)
    line, half = line_with_band(x, y, np.array([0.0, x.mean()]))
    t = stats.t.ppf(0.975, 58)
    np.testing.assert_allclose(line, [fit.intercept, fit.intercept + fit.slope * x.mean()])
    assert half[0] == pytest.approx(t * fit.intercept_stderr)
    assert half[1] < half[0]


def test_a_patient_is_a_dot() -> None:
    task = Regression(np.array([1.0, 1, 5]))
    folds = tuple(
        FoldPrediction(repeat, 0, np.arange(3), np.array([[1.0], [3.0], [4.0]]) + repeat, 1, "") for repeat in (0, 1)
    )
    predicted, observed = patient_means(Result("m", "a", folds, {}, {}), task, np.array(["p", "p", "q"]))
    assert (predicted.tolist(), observed.tolist()) == ([2.5, 4.5], [1, 5])
    choice = task.choose_cases(
        [Result("m", "a", folds, {}, {})], np.array(["x", "y", "z"]), np.array(["p", "p", "q"]), 1
    )
    assert (choice[0].hardest[0].slide_id, choice[0].hardest[0].cells["error"]) == ("y", "2.5")
