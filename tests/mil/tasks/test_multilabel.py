"""Several labels by one head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch.nn import functional as F

from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks.kinds.multilabel import MultiLabel

RNG = np.random.default_rng(3)
N = 80
SLIDES = np.array([f"s{number:02}" for number in range(N)])
CELLS = [RNG.choice(["neg", "pos", ""], N), RNG.choice(["0", "1"], N)]
SETTINGS = MilEvalConfig(
    manifest=Path("m.csv"), model=("mean-tokens",), out=Path("out"), task="multilabel", target=("er", "pr")
)
TASK = MultiLabel.read(SLIDES, CELLS, SETTINGS)
PROBABILITIES = RNG.random((N, 2))


def test_metrics_equal_those_of_scikit_learn_over_the_known_labels() -> None:
    found = TASK.metrics(np.arange(N), PROBABILITIES)
    known = CELLS[0] != ""
    areas = [
        roc_auc_score(CELLS[0][known] == "pos", PROBABILITIES[known, 0]),
        roc_auc_score(CELLS[1] == "1", PROBABILITIES[:, 1]),
    ]
    recalls = [
        balanced_accuracy_score(CELLS[0][known] == "pos", PROBABILITIES[known, 0] >= 0.5),
        balanced_accuracy_score(CELLS[1] == "1", PROBABILITIES[:, 1] >= 0.5),
    ]
    assert found.keys() == TASK.known_metrics.keys()
    assert (found["auc er=pos"], found["auc pr=1"]) == pytest.approx(tuple(areas))
    assert (found["auc"], found["balanced_accuracy"]) == pytest.approx((np.mean(areas), np.mean(recalls)))
    weights = RNG.integers(0, 3, N)
    repeated = TASK.metrics(np.repeat(np.arange(N), weights), np.repeat(PROBABILITIES, weights, axis=0))
    weighted = TASK.weighted_metrics(np.arange(N), PROBABILITIES, weights[None].astype(np.float64))
    assert {name: float(value[0]) for name, value in weighted.items()} == pytest.approx(repeated)


def test_the_loss_is_the_balanced_binary_cross_entropy_of_known_labels() -> None:
    objective = TASK.objective(np.arange(60))
    logits = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    found = objective.loss(logits, torch.arange(N))
    expected = torch.zeros(N)
    for label, positive in enumerate(("pos", "1")):
        train = CELLS[label][:60]
        counts = {value: (train == value).sum() for value in set(train.tolist()) - {""}}
        for row, cell in enumerate(CELLS[label].tolist()):
            if cell:
                truth = torch.tensor(float(cell == positive))
                weight = sum(counts.values()) / (2 * counts[cell])
                expected[row] += weight * F.binary_cross_entropy_with_logits(logits[row, label], truth) / 2
    torch.testing.assert_close(found, expected)


def test_the_value_of_an_unknown_label_has_no_influence_on_linear_models_and_votes() -> None:
    known = RNG.normal(size=(N, 3))
    model = TASK.objective(np.arange(N)).fit_linear(known, torch.arange(N), 0.1)
    labelled = np.flatnonzero(CELLS[0] != "")
    alone = MultiLabel(("er", "pr"), TASK.values, TASK.targets[labelled]).objective(np.arange(len(labelled)))
    again = alone.fit_linear(known[labelled], torch.arange(len(labelled)), 0.1)
    np.testing.assert_allclose(model.coefficients[:, 0], again.coefficients[:, 0], atol=1e-4)
    unknown = np.flatnonzero(CELLS[0] == "")
    votes = TASK.objective(np.arange(N)).votes(torch.tensor(unknown))
    assert votes[:, [0, 2]].abs().sum() == 0
    assert (votes[:, [1, 3]].sum(dim=1) > 0).all()


def test_labels_with_other_than_two_values_and_patients_with_two_are_refused() -> None:
    with pytest.raises(UsageError, match="pr has 3 values: 0, 1, 2"):
        MultiLabel.read(SLIDES, [CELLS[0], RNG.choice(["0", "1", "2"], N)], SETTINGS)
    with pytest.raises(UsageError, match="pr: Classes with slides: 1"):
        MultiLabel.read(SLIDES, [CELLS[0], np.full(N, "1")], SETTINGS)
    with pytest.raises(UsageError, match="patients have more than one er"):
        TASK.check_patients(np.repeat(["a", "b"], N // 2))
    with pytest.raises(UsageError, match="only one value of pr"):
        TASK.objective(np.flatnonzero(CELLS[1] == "1"))
