from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from slpd_toolkit.mil.heads.aggregators import knn, probe
from slpd_toolkit.mil.heads.aggregators.knn import fit_neighbours
from slpd_toolkit.mil.heads.aggregators.probe import fit_linear
from slpd_toolkit.mil.heads.head import PartRows
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival

if TYPE_CHECKING:
    from slpd_toolkit.mil.tasks.likelihoods import Objective
    from slpd_toolkit.mil.tasks.task import Task

RNG = np.random.default_rng(0)
CASES = 90
EMBEDDINGS = RNG.normal(size=(CASES, 3))
GRADES = np.clip(np.round(EMBEDDINGS[:, 0] + RNG.normal(size=CASES) * 0.5 + 1), 0, 2).astype(np.int64)
TRAIN, VAL, TEST = np.arange(50), np.arange(50, 70), np.arange(70, 90)
TIMES = np.exp(-EMBEDDINGS[:, 1] + RNG.normal(size=CASES) * 0.3)
TASKS: dict[str, Task] = {
    "classes": Classification(("a", "b", "c"), GRADES),
    "two classes": Classification(("a", "b"), np.minimum(GRADES, 1)),
    "grades": Ordinal(("1", "2", "3"), GRADES),
    "survival": Survival(TIMES, RNG.random(CASES) < 0.7, bins=3),
}
ROWS = torch.tensor(TRAIN)
PARTS = PartRows(TRAIN, VAL, TEST)
HEADS = {"knn": knn.HEAD, "probe": probe.HEAD}


@pytest.mark.parametrize("task", TASKS)
def test_estimates_are_the_logits_of_least_loss(task: str) -> None:
    """No other logits have a lower mean loss for a mixture of slides; a general optimizer finds the same."""
    objective = TASKS[task].objective(TRAIN)
    shares = np.random.default_rng(1).dirichlet(np.ones(50) * 0.3)
    found = objective.estimate(torch.tensor(shares[None], dtype=torch.float32), ROWS)

    def loss(logits: np.ndarray) -> float:
        repeated = torch.tensor(logits, dtype=torch.float64).expand(50, -1)
        return float((objective.loss(repeated, ROWS).double() * torch.tensor(shares)).sum())

    least = minimize(loss, np.zeros(objective.outputs), tol=1e-10).fun
    assert loss(found[0].double().numpy()) == pytest.approx(least, abs=1e-5)


def test_neighbours_vote_as_scikit_learns_do_beside_one_average_slide() -> None:
    balanced = Classification(("a", "b"), np.arange(CASES) % 2)
    objective = balanced.objective(TRAIN)
    for setting, fitted in fit_neighbours(EMBEDDINGS[TRAIN], objective, ROWS):
        count = int(setting.split()[0])
        theirs = KNeighborsClassifier(count).fit(EMBEDDINGS[TRAIN], balanced.targets[TRAIN])
        votes = theirs.predict_proba(EMBEDDINGS[TEST])
        expected = (votes * count + 0.5) / (count + 1)
        found = objective.predict(fitted(EMBEDDINGS[TEST]))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rare_classes_have_votes_that_weigh_more() -> None:
    targets = np.array([0] * 8 + [1] * 2)
    objective = Classification(("common", "rare"), targets).objective(np.arange(10))
    shares = torch.full((1, 10), 0.1)
    np.testing.assert_allclose(objective.predict(objective.estimate(shares, torch.arange(10))), [[0.5, 0.5]])


@pytest.mark.parametrize(("cases", "expected"), [(2, [1]), (6, [3]), (20, [5, 10]), (90, [5, 10, 20, 40])])
def test_at_most_half_of_the_slides_are_neighbours(cases: int, expected: list[int]) -> None:
    rows = np.arange(cases)
    objective = Classification(("a", "b"), np.arange(CASES) % 2).objective(rows)
    settings = [setting for setting, _ in fit_neighbours(EMBEDDINGS[:cases], objective, torch.tensor(rows))]
    assert settings == [f"{count} neighbours" for count in expected]


@pytest.mark.parametrize("task", ["classes", "two classes"])
def test_the_logistic_probe_is_balanced_logistic_regression(task: str) -> None:
    objective = TASKS[task].objective(TRAIN)
    assert objective.labels is not None
    for setting, fitted in fit_linear(EMBEDDINGS[TRAIN], objective, ROWS):
        model = LogisticRegression(C=float(setting.split()[-1]), class_weight="balanced", max_iter=5000)
        model.fit(EMBEDDINGS[TRAIN], objective.labels[ROWS].numpy())
        found = objective.predict(fitted(EMBEDDINGS[TEST]))
        np.testing.assert_allclose(found, model.predict_proba(EMBEDDINGS[TEST]), atol=2e-3)


@pytest.mark.parametrize("task", ["grades", "survival"])
def test_the_hazard_probe_minimises_the_penalised_likelihood(task: str) -> None:
    objective = TASKS[task].objective(TRAIN)
    *_, (setting, fitted) = fit_linear(EMBEDDINGS[TRAIN], objective, ROWS)
    inverse_penalty = float(setting.split()[-1])
    x = torch.tensor(EMBEDDINGS[TRAIN], dtype=torch.float64)

    def penalised(parameters: np.ndarray) -> float:
        slopes, levels = torch.tensor(parameters[:3]), torch.tensor(parameters[3:])
        losses = objective.loss((x @ slopes)[:, None] + 10 * levels, ROWS).double()
        return float(inverse_penalty * losses.sum()) + 0.5 * float((parameters**2).sum())

    best = minimize(penalised, np.zeros(3 + objective.outputs), tol=1e-9).x
    expected = (EMBEDDINGS[TEST] @ best[:3])[:, None] + 10 * best[3:]
    np.testing.assert_allclose(fitted(EMBEDDINGS[TEST]), expected, atol=2e-2)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", HEADS)
def test_the_setting_of_least_validation_loss_is_applied_to_standardised_embeddings(name: str, task: str) -> None:
    objective = TASKS[task].objective(TRAIN)
    stretched = (EMBEDDINGS * [1, 100, 0.01] + [5, -300, 0]).astype(np.float32)
    result = HEADS[name].select(stretched, objective, PARTS)
    mean, sd = EMBEDDINGS[TRAIN].mean(axis=0), EMBEDDINGS[TRAIN].std(axis=0)
    known, seen, unseen = ((EMBEDDINGS[rows] - mean) / sd for rows in (TRAIN, VAL, TEST))
    fit = fit_neighbours if name == "knn" else fit_linear
    losses = {}
    for setting, fitted in fit(known, objective, ROWS):
        losses[setting] = objective.loss(fitted(seen), torch.tensor(VAL)).mean().item()
        if setting == result.setting:
            torch.testing.assert_close(result.logits, fitted(unseen), atol=2e-3, rtol=1e-2)
    assert losses[result.setting] == pytest.approx(min(losses.values()), abs=1e-4)
    assert len(losses) > 2


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    ("task", "least"), [("classes", 0.65), ("two classes", 0.75), ("grades", 0.4), ("survival", 0.7)]
)
def test_probes_learn_what_is_there(name: str, task: str, least: float) -> None:
    objective: Objective = TASKS[task].objective(TRAIN)
    result = HEADS[name].select(EMBEDDINGS.astype(np.float32), objective, PARTS)
    outputs = objective.predict(result.logits).double().numpy()
    assert TASKS[task].metrics(TEST, outputs)[TASKS[task].headline] > least
