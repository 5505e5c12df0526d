"""The answer of a study claims no more than its intervals and tests."""

from __future__ import annotations

from typing import Any

from slpd_toolkit.report.study_answer import answer


def interval(low: float | None, high: float | None) -> dict[str, Any]:
    return {"low": low, "high": high}


def result(model: str, mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"model": model, "aggregator": "abmil", "metrics": {"auc": {"mean": mean, "interval": interval(low, high)}}}


def pair(first: str, second: str, difference: float, p: float | None, reach: float = 0.1) -> dict[str, Any]:
    within = interval(difference - reach, difference + reach)
    adjusted = {} if p is None else {"shared_training": p}
    metrics = {"auc": {"difference": difference, "interval": within}}
    return {"aggregator": "abmil", "first": first, "second": second, "metrics": metrics, "adjusted_p": adjusted}


def document(results: list[dict[str, Any]], pairs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    task = {"task": {"headline": "auc"}, "cohort": {"slides": 30, "patients": 24}}
    return {**task, "results": results, "comparisons": pairs, **more}


RESULTS = [result("mean-tokens", 0.7, 0.55, 0.8), result("slpd", 0.82, 0.7, 0.9), result("dino", 0.8, 0.68, 0.88)]


def test_no_difference_is_an_answer() -> None:
    found = answer(document(RESULTS, [pair("slpd", "dino", 0.02, 0.6), pair("slpd", "mean-tokens", 0.12, 0.08)]))
    best, differences, remains = found.sentences
    assert "that of SLPD with abmil: AUC 0.820 [0.700, 0.900] in cross-validation of 24 patients" in best
    assert "No difference" in differences
    assert "the smallest of 2 Holm-adjusted p-values is 0.080" in differences
    assert "a difference of SLPD from DINO of −0.080 to +0.120 AUC with abmil" in remains
    assert "no signal" not in remains
    assert [row.model for row in found.rows] == ["SLPD", "DINO", "mean tokens"]


def test_a_difference_names_the_better_one_first() -> None:
    pairs = [pair("mean-tokens", "slpd", -0.12, 0.004), pair("dino", "slpd", -0.02, 0.7)]
    _, differences, remains = answer(document(RESULTS, pairs)).sentences
    assert differences == (
        "SLPD is better than mean tokens with abmil (+0.120 AUC, Holm-adjusted p = 0.004); 1 other comparison shows no "
        "difference."
    )
    assert "SLPD from DINO of −0.080 to +0.120" in remains


def test_held_out_patients_and_what_is_not_defined() -> None:
    metrics = {"auc": {"ensemble": {"value": 0.75, "low": None, "high": None}}}
    outside = {
        "results": [{"model": "slpd", "aggregator": "abmil", "metrics": metrics}],
        "cohort": {"slides": 3, "patients": 2},
    }
    best, differences, remains = answer(document([result("slpd", 0.6, 0.45, 0.7)], [], external=outside)).sentences
    assert "and 0.750 on 2 patients held out from all training (no interval is defined for so few patients)" in best
    assert "single representation" in differences
    assert "includes 0.5, the value of random guessing, so no signal is shown" in remains
    undefined = answer(document(RESULTS, [pair("slpd", "dino", 0.02, None)])).sentences[1]
    assert "cannot be determined: no paired test is defined" in undefined


def test_a_ceiling_is_never_the_best_and_is_named_last() -> None:
    pairs = [
        pair("slpd", "dino", 0.02, 0.6),
        pair("slpd", "truth", -0.15, 0.001),
        pair("truth", "mean-tokens", 0.27, 0.001),
    ]
    given = document([result("truth", 0.97, 0.9, 1.0), *RESULTS], pairs)
    best, differences, remains, last = answer(given, ["truth"]).sentences
    assert best.startswith("The highest mean is that of SLPD with abmil: AUC 0.820")
    assert differences.endswith("the smallest of 1 Holm-adjusted p-values is 0.60.")
    assert "truth" not in best + differences + remains
    assert last == (
        "As a ceiling, with information other than the slides: truth reaches AUC 0.970 [0.900, 1.000] in "
        "cross-validation with abmil."
    )
    models = [row.model for row in answer(given, ["truth"]).rows]
    assert models == ["SLPD", "DINO", "mean tokens", "truth (ceiling)"]
    assert answer(given).sentences[0].startswith("The highest mean is that of truth")


def held_out(patients: int, *pairs: tuple[str, str, float, float | None], ceiling: tuple[str, ...] = ()) -> str:
    """Return the second sentence of a study in whose cross-validation no difference is shown."""
    metrics = {"auc": {"ensemble": {"value": 0.75, "low": 0.6, "high": 0.9}}}
    comparisons = [pair(*each) for each in pairs]
    for each in comparisons:
        each["adjusted_p"] = {"permutation": each["adjusted_p"].get("shared_training"), "shared_training": 0.0001}
    outside = {
        "results": [{"model": each["model"], "aggregator": "abmil", "metrics": metrics} for each in RESULTS],
        "cohort": {"slides": patients, "patients": patients},
        "comparisons": comparisons,
    }
    return answer(document(RESULTS, [pair("slpd", "dino", 0.02, 0.6)], external=outside), ceiling).sentences[1]


def test_differences_on_held_out_patients_are_tested_as_well() -> None:
    none = held_out(20, ("slpd", "dino", 0.1, 0.3), ("slpd", "mean-tokens", 0.2, 0.06))
    assert none.startswith("No difference between the representations is shown: the smallest of 1 Holm-adjusted")
    assert none.endswith(
        "On the 20 held-out patients, none is shown either: the smallest of 2 adjusted p-values is 0.060."
    )
    one = held_out(20, ("dino", "slpd", -0.1, 0.02), ("slpd", "mean-tokens", 0.2, 0.06))
    assert one.endswith(
        "On the 20 held-out patients, as trained here: SLPD is better than DINO with abmil (+0.100 AUC, "
        "Holm-adjusted p = 0.020)."
    )
    assert "held-out" not in held_out(20, ("slpd", "dino", 0.1, None))


def test_so_few_held_out_patients_that_no_swap_can_be_significant_are_said_to_be_too_few() -> None:
    assert "On the 5 held-out patients, no difference could be shown: they are too few for 1 comparison." in held_out(
        5, ("slpd", "dino", 0.5, 0.0625)
    )
    assert "none is shown either" in held_out(6, ("slpd", "dino", 0.5, 0.06))
    pairs = ("slpd", "dino", 0.5, 0.06), ("truth", "dino", 0.5, 0.06)  # both are adjusted for, one is stated
    assert "they are too few for 2 comparisons" in held_out(6, *pairs, ceiling=("truth",))
    assert "the smallest of 1 adjusted p-values" in held_out(7, *pairs, ceiling=("truth",))


def test_slides_and_patients_are_those_that_were_evaluated() -> None:
    metrics = {"auc": {"ensemble": {"value": 0.75, "low": None, "high": None}}}
    outside = {"results": [{"model": "slpd", "aggregator": "abmil", "metrics": metrics}]}
    found = answer(document(RESULTS, [], external=outside | {"cohort": {"slides": 7, "patients": 5}}))
    assert (found.slides, found.patients) == (37, (24, 5))
    assert (answer(document(RESULTS, [])).slides, answer(document(RESULTS, [])).patients) == (30, (24, 0))


def test_an_interval_without_width_claims_nothing() -> None:
    equal = pair("slpd", "dino", 0.0, 1.0, reach=0.0)
    remains = answer(document(RESULTS, [equal])).sentences[2]
    assert "they do not differ on these patients, which says nothing about others" in remains
    assert "compatible" not in remains
