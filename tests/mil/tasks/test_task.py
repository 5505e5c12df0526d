from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.tasks import metrics, weighted_metrics
from slpd_toolkit.mil.tasks.hazards import hazard_loss
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival

TARGETS = np.array([0, 1, 1, 2, 0, 1, 2, 2])
TRAIN = np.array([0, 1, 2, 3, 5])
ROWS = torch.tensor([0, 2, 3, 7])
LOGITS = torch.tensor([[0.2, -1.0, 0.4], [1.0, 0.6, -0.3], [0.1, 0.1, 2.0], [0.0, -0.7, 0.5]])


def test_classes_weigh_the_same_and_only_train_is_counted() -> None:
    objective = Classification(("a", "b", "c"), TARGETS).objective(TRAIN)
    # In train: one a, three b, one c.
    weight_of = torch.tensor([5 / 3, 5 / 9, 5 / 3])
    expected = F.cross_entropy(LOGITS, torch.tensor([0, 1, 2, 2]), reduction="none") * weight_of[[0, 1, 2, 2]]
    torch.testing.assert_close(objective.loss(LOGITS, ROWS), expected)
    torch.testing.assert_close(objective.predict(LOGITS), LOGITS.softmax(dim=1))
    assert objective.outputs == 3


def test_ordered_classes_are_hazards_that_stop_at_the_class() -> None:
    task = Ordinal(("low", "mid", "high"), TARGETS)
    objective = task.objective(TRAIN)
    assert objective.outputs == 2
    assert objective.labels is not None
    assert objective.labels.tolist() == TARGETS.tolist()
    logits = LOGITS[:, :2]
    likelihood = objective.predict(logits).log()[range(4), [0, 1, 2, 2]]
    torch.testing.assert_close(objective.loss(logits, ROWS), -likelihood * torch.tensor([5 / 3, 5 / 9, 5 / 3, 5 / 3]))


def test_survival_bins_come_from_the_events_of_train() -> None:
    times, events = np.array([1.0, 2, 3, 4, 5, 6, 100, 200]), np.array([1, 1, 0, 1, 1, 0, 1, 1], dtype=bool)
    objective = Survival(times, events, bins=2).objective(np.array([0, 1, 2, 3, 4]))
    # Training events at 1, 2, 4, 5: one edge at 3.
    assert objective.outputs == 2
    assert objective.labels is None
    expected = hazard_loss(LOGITS[:, :2], torch.tensor([0, 1, 1, 1]), torch.tensor([True, False, True, True]))
    torch.testing.assert_close(objective.loss(LOGITS[:, :2], ROWS), expected)
    h = torch.sigmoid(LOGITS[:, :2])
    risks = -((1 - h[:, 0]) + (1 - h[:, 0]) * (1 - h[:, 1]))
    torch.testing.assert_close(objective.predict(LOGITS[:, :2])[:, :1], risks.unsqueeze(1))


def test_merged_bins_make_fewer_outputs() -> None:
    times, events = np.array([2.0, 2.0, 2.0, 7.0]), np.ones(4, bool)
    assert Survival(times, events, bins=4).objective(np.arange(4)).outputs == 3


def test_a_training_part_without_a_class_is_refused() -> None:
    with pytest.raises(UsageError, match="no slides of c"):
        Classification(("a", "b", "c"), TARGETS).objective(np.array([0, 1, 2]))


def test_metrics_judge_the_rows_they_are_given() -> None:
    rows = np.array([3, 0, 1])
    outputs = np.array([[0.2, 0.2, 0.6], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25]])
    weights = np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    for ordinal in (False, True):
        task = (Ordinal if ordinal else Classification)(("a", "b", "c"), TARGETS)
        assert task.metrics(rows, outputs) == metrics.classification(TARGETS[rows], outputs, ordinal=ordinal)
        assert task.headline in task.metrics(rows, outputs)
        found = task.weighted_metrics(rows, outputs, weights)
        expected = weighted_metrics.classification(TARGETS[rows], outputs, weights, ordinal=ordinal)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    times, events = np.arange(8.0), np.array([1, 1, 0, 1, 0, 0, 1, 1], dtype=bool)
    survival = Survival(times, events)
    assert survival.metrics(rows, outputs[:, 1:2])["c_index"] == 2 / 3
    assert survival.headline == "c_index"
    found = survival.weighted_metrics(rows, outputs[:, 1:2], weights)
    assert found["c_index"].tolist() == pytest.approx([1, 2 / 3])


def test_strata_are_classes_or_events() -> None:
    assert Classification(("a", "b", "c"), TARGETS).strata.tolist() == list("abbcabcc")
    strata = Survival(np.arange(2.0), np.array([True, False])).strata
    assert strata.tolist() == ["event", "censored"]
