"""An evaluation with undefined metrics, an infinite statistic, leaks and a note."""

from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.cohort.audit import SharedVectors, SplitAudit
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.evaluation import Comparison
from slpd_toolkit.mil.statistics.intervals import Interval
from slpd_toolkit.mil.statistics.paired_tests import PairedTest
from slpd_toolkit.mil.statistics.results import Evaluation, PairedResult, Representation, Result
from tests.mil.planted import make_cohort, planted_bags, task_of

COHORT = make_cohort([1, 1, 1, 1], ["a", "b", "a", "b"])
NAN = float("nan")
CLEAN = SplitAudit(0, 0, {}, (), (), ())
LEAKY = SplitAudit(
    0, 1, {("train", "test"): ("p000", "p001")}, ("p000-0",), ("p002",), (SharedVectors(("p000-0", "p003-0"), 7),)
)


def evaluation() -> Evaluation:
    bags = planted_bags(COHORT, signal=0.0)
    outputs = np.array([[0.75, 0.25], [0.4, 0.6]])
    folds = (
        FoldPrediction(0, 0, np.array([0, 1]), outputs, 2, "step 20"),
        FoldPrediction(0, 1, np.array([3, 2]), outputs, 2, "step 40"),
    )
    undefined = Interval(NAN, NAN, 4, reason="no fold tests two patients of each class")
    result = Result("m", "abmil", folds, {"auc": np.array([1.0, NAN])}, {"auc": undefined})
    test, infinite = PairedTest(-1.0, 0.01), PairedTest(float("inf"), 0.0)
    comparison = Comparison(0.5, Interval(0.1, 0.9, 4), infinite, test, test, None)
    adjusted = {"shared_training": 0.0, "permutation": 0.01, "corrected_t": 0.01, "delong": NAN}
    return Evaluation(
        "label",
        task_of(COHORT),
        COHORT,
        (
            Representation("m", "runs/m", bags, None, frozenset({"p000-0", "elsewhere"}), pretraining_known=True),
            Representation("n", "n.csv", bags),
        ),
        (result, Result("n", "abmil", folds, result.values, result.intervals)),
        "patient",
        False,
        (PairedResult("abmil", "m", "n", {"auc": comparison}, adjusted),),
        {"m": (CLEAN, LEAKY), "n": (CLEAN, CLEAN)},
        {"seed": 1, "out": "here", "jobs": 8, "workers": 2, "about": {"torch": "2"}},
        ("One slide was left out.",),
    )
