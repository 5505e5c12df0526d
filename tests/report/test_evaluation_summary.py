from __future__ import annotations

import math

import pytest

from slpd_toolkit.report.evaluation_summary import audit_facts, print_summary
from tests.mil.findings import evaluation
from tests.report.evaluations import classification, planted_evaluation

LONG, HISTOGRAM = "tcga-nsclc-slpd-vits", "prototype-histogram"


def test_the_audit_is_said_in_numbers_of_splits() -> None:
    facts = audit_facts(evaluation())
    assert facts["splits"].startswith("LEAK: 1 of 2 splits has patients in two parts (train and test in 1), 2 patients")
    assert "pretrained on 1 of the tested slides" in facts["m"]
    assert "pretrained on other slides of 1 tested patient" in facts["m"]
    assert "identical embeddings are in two parts in 1 of 2 splits, such as 7 in p000-0, p003-0" in facts["m"]
    assert facts["n"].startswith("clean: no embedding is in two parts.")
    assert facts["n"].endswith("unknown.")


def test_the_summary_fits_80_columns_and_shows_what_is_undefined(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(evaluation())
    said = capsys.readouterr()
    assert max(map(len, said.out.splitlines())) <= 80
    assert "1.000" in said.out
    assert "nan" not in said.out
    assert "note: One slide was left out." in said.err
    assert math.isnan(evaluation().comparisons[0].adjusted["delong"])


@pytest.mark.parametrize(
    ("models", "aggregators", "firsts"),
    [
        ([LONG, "n"], ["knn", HISTOGRAM], ["knn", LONG, "n", HISTOGRAM, LONG, "n"]),
        ([LONG], ["knn", HISTOGRAM], ["knn", HISTOGRAM]),
        ([LONG, "n"], [HISTOGRAM], [LONG, "n"]),
    ],
)
def test_no_name_and_no_number_is_cut_in_two(
    capsys: pytest.CaptureFixture[str], models: list[str], aggregators: list[str], firsts: list[str]
) -> None:
    cohort, task = classification(24, ["a", "b"])
    print_summary(planted_evaluation(cohort, task, dict.fromkeys(models, 1.0), aggregators=aggregators, folds=3))
    title, _, header, _, *lines = capsys.readouterr().out.splitlines()
    table = lines[: len(firsts)]
    assert [line.split()[0] for line in table] == firsts
    assert [line.count("[") for line in table] == [line.count("]") for line in table]
    assert header.split("  ")[0].strip() in {"aggregator, model", "aggregator", "model"}
    assert {*title.replace(",", "").split(), *firsts} >= {*models, *aggregators}
    assert max(map(len, lines)) <= 80
