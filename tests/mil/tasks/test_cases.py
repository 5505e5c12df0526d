from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.mil.tasks.cases import choose_classified, choose_survival, slide_concordance, wrong_in
from slpd_toolkit.mil.tasks.concordance import concordance_index
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.survival import Survival

SLIDES = np.array(["s0", "s1", "s2", "s3"])


def result(outputs: list[list[float]]) -> Result:
    return Result("m", "a", (FoldPrediction(0, 0, np.arange(len(outputs)), np.array(outputs), 4, ""),), {}, {})


def test_hard_slides_have_a_low_probability_of_their_true_class() -> None:
    task = Classification(("a", "b"), np.array([0, 1, 0, 1]))
    one = result([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.95, 0.05]])
    other = result([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.95, 0.05]])
    wrong = wrong_in([one, other], task)
    np.testing.assert_array_equal(wrong, [1, 1, 0, 2])
    choice = choose_classified(one, task, SLIDES, np.array(["p", "p", "q", "r"]), wrong, 2, limit=3)
    assert [case.slide_id for case in choice.hardest] == ["s3", "s1", "s2"]
    assert [case.right for case in choice.hardest] == [False, False, True]
    assert [case.slide_id for case in choice.surest] == ["s0", "s2"]
    assert choice.hardest[0].cells == {
        "patient": "r",
        "fold": "0",
        "true": "b",
        "predicted": "a",
        "p(true)": "0.05",
        "probabilities": "a 0.95, b 0.05",
        "wrong in": "2 of 2",
    }


def test_pairs_of_slides_add_up_to_the_concordance_index() -> None:
    rng = np.random.default_rng(0)
    times, events = rng.integers(1, 20, size=40).astype(np.float64), rng.random(40) < 0.6
    risks = rng.integers(0, 8, size=(40, 1)).astype(np.float64)
    pairs, right = slide_concordance(result(risks.tolist()), Survival(times, events))
    np.testing.assert_allclose(right.sum() / pairs.sum(), concordance_index(times, events, risks[:, 0]))


def test_hard_slides_of_survival_are_in_few_pairs_in_order() -> None:
    times, events = np.array([1.0, 2, 3, 4]), np.ones(4, bool)
    choice = choose_survival(result([[0.0], [3.0], [2.0], [1.0]]), Survival(times, events), SLIDES, SLIDES, limit=2)
    assert choice.hardest[0].slide_id == "s0"
    assert choice.hardest[0].cells["pairs in order"] == "0 % of 3"
    assert choice.hardest[0].cells["rank of risk (0–1)"] == "0.00"
    assert not choice.hardest[0].right
    assert [case.slide_id for case in choice.surest] == ["s1", "s2"]
