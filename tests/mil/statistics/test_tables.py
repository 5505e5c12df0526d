from __future__ import annotations

import json

from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.statistics.tables import correction, fold_rows, metrics_document, prediction_rows
from tests.mil.findings import COHORT, evaluation


def test_what_is_undefined_or_infinite_is_null() -> None:
    found = json.loads(json.dumps(metrics_document(evaluation()), allow_nan=False))
    auc = found["results"][0]["metrics"]["auc"]
    assert (auc["mean"], auc["sd"], auc["per_fold"]) == (1.0, None, [1.0, None])
    assert auc["interval"] == {
        "level": 0.95,
        "low": None,
        "high": None,
        "units": 4,
        "conservative": False,
        "undefined_because": "no fold tests two patients of each class",
    }
    compared = found["comparisons"][0]
    assert compared["metrics"]["auc"]["shared_training"] == {
        "statistic": None,
        "p": 0.0,
        "conservative": False,
        "inflation": 0.0,
    }
    assert compared["metrics"]["auc"]["delong"] is None
    assert compared["adjusted_p"] == {
        "shared_training": 0.0,
        "permutation": 0.01,
        "corrected_t": 0.01,
        "delong": None,
    }
    assert found["correction"] == correction(evaluation()) == "Holm over 1 comparison, each test by itself"


def test_the_document_says_what_the_evaluation_says() -> None:
    found = metrics_document(evaluation())
    assert found["notes"] == ["One slide was left out."]
    assert found["recipe"] == {"seed": 1, "about": {"torch": "2"}}  # nothing that changes no number
    assert [each["slides_pretrained_on"] for each in found["representations"]] == [1, None]
    assert found["audit"]["n"] == {"clean": True, "splits": 2, "splits_with_findings": 0, "findings": []}
    assert found["audit"]["m"]["findings"] == [
        {
            "repeat": 0,
            "fold": 1,
            "shared_patients": {"train and test": ["p000", "p001"]},
            "pretrained_slides": ["p000-0"],
            "pretrained_patients": ["p002"],
            "shared_vectors": [{"slides": ["p000-0", "p003-0"], "count": 7}],
            "near_copies": [],
        }
    ]
    folds = found["results"][0]["folds"]
    assert folds[1] == {"repeat": 0, "fold": 1, "train": 2, "test": 2, "kept": "step 40"}


def test_a_prediction_is_a_row() -> None:
    columns, rows = prediction_rows(evaluation())
    assert columns[-4:] == ["target", "predicted", "probability_a", "probability_b"]
    third = list(rows)[2]
    assert list(third.values()) == ["m", "abmil", 0, 1, "p003-0", "p003", "b", "a", 0.75, 0.25]


def test_a_slide_of_a_split_is_a_row() -> None:
    split = Split(4, ("p000-0",), ("p001-0",), ("p002-0", "p003-0"), repeat=2)
    rows = [tuple(row.values()) for row in fold_rows([split], COHORT)]
    assert rows == [
        (2, 4, "train", "p000-0", "p000"),
        (2, 4, "val", "p001-0", "p001"),
        (2, 4, "test", "p002-0", "p002"),
        (2, 4, "test", "p003-0", "p003"),
    ]
