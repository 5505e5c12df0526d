from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from slpd_toolkit.core.figures import number_format
from slpd_toolkit.mil.cohort.audit import SharedVectors, SplitAudit
from slpd_toolkit.mil.statistics.evaluation import Comparison
from slpd_toolkit.mil.statistics.intervals import Interval
from slpd_toolkit.mil.statistics.paired_tests import PairedTest
from slpd_toolkit.mil.statistics.results import PairedResult, Result
from slpd_toolkit.report import wording
from slpd_toolkit.report.outcome import alarm, best_first, comparison_table, leaks, sentences, verdict
from tests.report.evaluations import classification, planted_evaluation

NAN = math.nan


def paired(difference: float, adjusted: float, *, splits: int = 5, delong: float | None = None) -> PairedResult:
    found = Comparison(
        difference,
        Interval(difference - 0.01, difference + 0.02, 100),
        PairedTest(1.0, 0.02),
        PairedTest(1.0, 0.0004),
        PairedTest(1.0, 0.3) if splits > 1 else None,
        None if delong is None else PairedTest(1.0, delong),
    )
    p_values = {"shared_training": adjusted, "permutation": 0.0006, "corrected_t": 0.6, "delong": NAN}
    return PairedResult("abmil", "slpd", "dino", {"auc": found, "f1": found}, p_values)


@pytest.mark.parametrize(
    ("difference", "adjusted", "splits", "text", "differs"),
    [
        (
            0.012,
            0.31,
            5,
            "slpd against dino, abmil: +0.012 AUC [+0.002, +0.032]; not distinguishable (Holm-adjusted p = 0.31).",
            False,
        ),
        (
            -0.012,
            0.04,
            5,
            "dino against slpd, abmil: +0.012 AUC [−0.008, +0.022]; dino is better (Holm-adjusted p = 0.040).",
            True,
        ),
        (
            0.012,
            0.01,
            1,
            (
                "slpd against dino, abmil: +0.012 AUC [+0.002, +0.032]; these heads of slpd are better "
                "(Holm-adjusted p = 0.010); a single split allows no conclusion about other training sets."
            ),
            False,
        ),
        (
            0.0,
            0.9,
            1,
            "slpd against dino, abmil: 0.000 AUC [−0.010, +0.020]; not distinguishable (Holm-adjusted p = 0.90).",
            False,
        ),
        (NAN, NAN, 5, "slpd against dino, abmil: undefined AUC undefined; no test is defined.", False),
    ],
)
def test_a_sentence_claims_what_its_test_supports(
    difference: float, adjusted: float, splits: int, text: str, differs: bool
) -> None:
    said = verdict(paired(difference, adjusted, splits=splits), "auc", "AUC")
    assert (said.text, said.differs) == (text, differs)


def test_what_is_conservative_is_said_and_marked() -> None:
    sound = paired(0.012, 0.04)
    metric = sound.metrics["auc"]
    marked = replace(
        metric,
        interval=replace(metric.interval, conservative=True),
        shared_training=replace(metric.shared_training, conservative=True),
    )
    said = verdict(replace(sound, metrics={"auc": marked}), "auc", "AUC").text
    assert said.endswith("slpd is better (conservative Holm-adjusted p = 0.040).")
    (row,) = comparison_table([replace(sound, metrics={"auc": marked})], "auc", "auc").rows
    assert row.interval == "[+0.002, +0.032]*"
    assert row.p_values == ["0.020* (0.040)", "< 0.001 (< 0.001)", "0.30 (0.60)"]
    undefined = Interval(NAN, NAN, conservative=True)
    assert wording.interval(undefined) == wording.bare_interval(undefined)


def test_a_table_shows_tests_that_are_defined_and_adjusts_the_headline_alone() -> None:
    table = comparison_table([paired(0.012, 0.31)], "auc", "auc")
    assert table.tests == ["t-test", "permutation test", "corrected t-test of folds"]
    assert list(table.rows[0].p_values) == ["0.020 (0.31)", "< 0.001 (< 0.001)", "0.30 (0.60)"]
    assert list(comparison_table([paired(0.012, 0.31)], "f1", "auc").rows[0].p_values) == ["0.020", "< 0.001", "0.30"]
    both = [paired(0.012, 0.31, delong=0.5), paired(0.012, 0.31)]
    assert [row.p_values[3] for row in comparison_table(both, "auc", "auc").rows] == ["0.50", "–"]


def result(model: str, values: list[float]) -> Result:
    return Result(model, "knn", (), {"auc": np.array(values)}, {})


def test_the_best_comes_first_and_the_undefined_last() -> None:
    results = [result("a", [NAN, NAN]), result("b", [0.5, 0.7]), result("c", [0.9, NAN])]
    assert [each.model for each in best_first(results, "auc")] == ["c", "b", "a"]


def audit(fold: int, *, repeat: int = 0, patients: int = 0, seen: int = 0, vectors: int = 0) -> SplitAudit:
    shared = {("train", "test"): tuple(f"p{number}" for number in range(patients))} if patients else {}
    same = tuple(SharedVectors(("a", "b"), 1) for _ in range(vectors))
    return SplitAudit(repeat, fold, shared, tuple(f"s{number}" for number in range(seen)), (), same)


def test_models_with_the_same_leaks_stand_together() -> None:
    dirty, clean = (audit(0, patients=2), audit(1)), (audit(0), audit(1))
    (found,) = leaks({"slpd": dirty, "dino": dirty, "other": clean})
    assert found.models == ["slpd", "dino"]
    assert list(found.splits) == [("fold 0", ("2 patients are in both train and test: p0, p1.",))]
    repeated = leaks({"slpd": (audit(0, seen=1), audit(0, repeat=1))})
    assert [name for name, _ in repeated[0].splits] == ["repeat 0, fold 0"]
    assert leaks({"slpd": clean}) == []


def test_the_alarm_tells_leaks_from_pretraining_that_saw_test_slides() -> None:
    assert alarm({"slpd": (audit(0), audit(1))}) == ("nothing found", "")
    assert alarm({"slpd": (audit(0, seen=3),)})[0] == "pretraining used test patients"
    assert alarm({"a": (audit(0, seen=3),), "b": (audit(1, patients=1),)})[0] == "the splits leak"
    assert alarm({"a": (audit(0, vectors=1),)})[0] == "the splits leak"


def test_noise_is_called_what_guessing_gives_and_signal_is_not() -> None:
    cohort, task = classification(60, ["a", "b"])
    evaluation = planted_evaluation(cohort, task, {"m": 0.0}, aggregators=["knn"], seed=1)
    noise = sentences(evaluation)
    assert noise[0].startswith("m, knn: AUC ")
    assert noise[1].startswith("The interval contains 0.5, the value of random guessing")
    both = sentences(replace(evaluation, results=evaluation.results * 2))
    assert both[-1].startswith("All intervals contain 0.5")
    signal = sentences(planted_evaluation(cohort, task, {"m": 2.0, "n": 0.0}, aggregators=["knn"]))
    assert signal[0].startswith("Highest mean: m, knn: AUC 1.000")
    assert signal[1].startswith("1 of 1 comparison between models shows a difference")
    assert signal[2].startswith("The interval of n, knn contains 0.5")


def test_numbers() -> None:
    assert [number_format.number(value) for value in (0.1234, -0.5, -0.0001, NAN)] == [
        "0.123",
        "−0.500",
        "0.000",
        "undefined",
    ]
    assert [wording.signed(value) for value in (0.1, -0.1, 0.0001, NAN)] == ["+0.100", "−0.100", "0.000", "undefined"]
    assert [wording.p_value(value) for value in (0.0009, 0.0312, 0.312, 1.0)] == [
        "< 0.001",
        "= 0.031",
        "= 0.31",
        "= 1.00",
    ]
    assert wording.mean_sd(np.array([0.5, NAN])) == "0.500"
    assert wording.mean_sd(np.array([0.4, 0.6])) == "0.500 ± 0.141"
    assert wording.interval(Interval(NAN, NAN, 0)) == "undefined"
    assert len(number_format.short("x" * 100)) < 30
    assert not number_format.short("_hidden").startswith("_")
