"""The exact wording of the conclusions of the demo."""

from __future__ import annotations

from typing import Any

import pytest

from slpd_toolkit.demo.conclusions import conclude, result_rows

NAMES = {"dino": "DINO", "slpd": "SLPD"}


def pair(aggregator: str, difference: float, p: float | None, *, swapped: bool = False) -> dict[str, Any]:
    first, second = ("dino", "slpd") if swapped else ("slpd", "dino")
    metrics = {"auc": {"difference": -difference if swapped else difference}}
    adjusted = {} if p is None else {"shared_training": p, "delong": 1e-9}
    return {"aggregator": aggregator, "first": first, "second": second, "metrics": metrics, "adjusted_p": adjusted}


def said(*pairs: dict[str, Any]) -> str:
    other = {**pair("knn", 0.4, 0.0), "second": "mean-tokens"}
    document = {"comparisons": [other, *pairs], "cohort": {"patients": 32}}
    return conclude(document, "slpd", "dino", NAMES)


def test_what_no_test_supports_is_not_claimed() -> None:
    assert said(pair("knn", 0.2, 0.30), pair("abmil", -0.04, 0.9)) == (
        "SLPD vs. DINO, difference in AUC: +0.20 (knn), -0.04 (abmil). "
        "No significant difference with 32 patients (smallest adjusted p 0.30)."
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_the_better_one_is_named_with_its_aggregators(swapped: bool) -> None:
    pairs = [pair(name, 0.1, p, swapped=swapped) for name, p in (("knn", 0.04), ("probe", 0.01), ("abmil", 0.06))]
    assert said(*pairs) == (
        "SLPD vs. DINO, difference in AUC: +0.10 (knn), +0.10 (probe), +0.10 (abmil). "
        "SLPD is better with knn and probe (adjusted p below 0.05)."
    )


def test_the_worse_one_is_named_too() -> None:
    assert said(pair("knn", -0.1, 0.04), pair("probe", 0.2, 0.001)) == (
        "SLPD vs. DINO, difference in AUC: -0.10 (knn), +0.20 (probe). "
        "SLPD is better with probe (adjusted p below 0.05). SLPD is worse with knn (adjusted p below 0.05)."
    )


def test_a_test_that_is_not_defined_shows_nothing() -> None:
    assert said(pair("knn", 0.3, None)).endswith("No significant difference with 32 patients (no test is defined).")


def test_the_table_has_a_row_a_model_and_a_column_an_aggregator() -> None:
    def result(model: str, aggregator: str, mean: float | None) -> dict[str, Any]:
        auc = {"mean": mean, "interval": {"low": 0.5, "high": 0.906}}
        return {"model": model, "aggregator": aggregator, "metrics": {"auc": auc}}

    document = {"results": [result("slpd", "knn", 0.704), result("slpd", "probe", None), result("dino", "knn", 0.6)]}
    assert result_rows(document, NAMES) == [
        {"AUC": "DINO", "knn": "0.60 (0.50-0.91)"},
        {"AUC": "SLPD", "knn": "0.70 (0.50-0.91)", "probe": "? (0.50-0.91)"},
    ]
