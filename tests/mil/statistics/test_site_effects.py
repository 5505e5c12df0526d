"""Site effects: against plain loops, on cohorts where the answer is known, and in words where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.sites import read_sites
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
from slpd_toolkit.mil.statistics.results import Representation
from slpd_toolkit.mil.statistics.site_auc import auc_of_pairs
from slpd_toolkit.mil.statistics.site_effects import Measured, SiteEffects, measure_site_effects
from slpd_toolkit.mil.statistics.site_neighbors import robustness_index
from slpd_toolkit.mil.statistics.site_prediction import predict_site
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.report.site_section import findings, site_section

RNG = np.random.default_rng(0)


def cohort_of(labels: list[int], per_patient: int = 1) -> tuple[Cohort, Classification]:
    """Return a cohort of one patient per label, and its task."""
    targets = np.repeat(labels, per_patient)
    patients = np.repeat([f"p{number:03}" for number in range(len(labels))], per_patient)
    slides = np.array([f"s{number:03}" for number in range(len(targets))])
    return Cohort(slides, patients, np.array(["a", "b"])[targets]), Classification(("a", "b"), targets)


def bags_of(vectors: np.ndarray) -> Bags:
    """Return bags of one vector per slide."""
    return Bags.pack({f"s{number:03}": vector[None] for number, vector in enumerate(vectors)})


def measure(vectors: np.ndarray, labels: list[int], sites: list[str], per_patient: int = 1) -> SiteEffects:
    cohort, task = cohort_of(labels, per_patient)
    representation = Representation("tokens", "", bags_of(vectors))
    return measure_site_effects(representation, task, cohort, np.repeat(sites, per_patient), 0)


LABELS = [0, 1] * 20
SITES = ["north", "north", "south", "south"] * 10


def signals(of_site: float, of_class: float, labels: list[int] = LABELS, sites: list[str] = SITES) -> np.ndarray:
    vectors = np.random.default_rng(1).standard_normal((len(labels), 6)).astype(np.float32)
    vectors[:, 0] += of_class * (2 * np.array(labels) - 1)
    vectors[:, 1] += of_site * (2 * (np.array(sites) == "south") - 1)
    return vectors


def test_a_site_that_is_in_the_vectors_is_predicted_and_one_that_is_not_is_not() -> None:
    found, chance = predict_site(signals(4, 0), np.arange(40).astype(str), np.array(SITES), 0)
    assert (found.value, found.high, chance) == (1.0, 1.0, 0.5)
    assert found.low == pytest.approx(0.025 ** (1 / 40))  # 40 of 40 patients, exactly
    found, _ = predict_site(signals(0, 4), np.arange(40).astype(str), np.array(SITES), 0)
    assert found.low < 0.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(40), rel=0.25)


def test_patients_are_never_in_both_parts_so_that_a_mark_of_the_patient_does_not_help() -> None:
    sites, patients = np.repeat(SITES, 3), np.repeat(np.arange(40).astype(str), 3)
    marks = np.repeat(10 * np.eye(40, dtype=np.float32), 3, axis=0)
    found, _ = predict_site(marks, patients, sites, 0)
    assert found.value < 0.7


def test_patients_count_once_however_many_slides_they_have() -> None:
    vectors, patients = signals(0.7, 0), np.arange(40).astype(str)
    once = predict_site(vectors, patients, np.array(SITES), 0)
    again = predict_site(np.repeat(vectors, 2, axis=0), np.repeat(patients, 2), np.repeat(SITES, 2), 0)
    assert once[0].value == pytest.approx(again[0].value, abs=0.06)  # the models see doubled slides, the mean does not


def test_the_robustness_index_equals_plain_loops() -> None:
    vectors, patients = signals(1, 1), np.repeat(np.arange(20).astype(str), 2)
    labels, sites = np.repeat(LABELS[:20], 2), np.repeat(SITES[:20], 2)
    found, chance = robustness_index(bags_of(vectors), labels, patients, sites, 0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    so, os, so_all, os_all = np.zeros((4, 40))
    for query in range(40):
        others = [row for row in range(40) if patients[row] != patients[query]]
        kinds = [
            (labels[row] == labels[query], sites[row] == sites[query])
            for row in sorted(others, key=lambda row: -unit[query] @ unit[row])
        ]
        so[query], os[query] = kinds[:10].count((True, False)), kinds[:10].count((False, True))
        so_all[query], os_all[query] = kinds.count((True, False)), kinds.count((False, True))
    assert found.value == pytest.approx(so.sum() / (so + os).sum())
    assert chance == pytest.approx(so_all.sum() / (so_all + os_all).sum())
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("of_site", "of_class", "low", "high"), [(5, 0, 0, 0.2), (0, 5, 0.8, 1), (0, 0, 0.3, 0.7)])
def test_the_robustness_index_is_low_for_sites_and_high_for_classes(
    of_site: float, of_class: float, low: float, high: float
) -> None:
    found, chance = robustness_index(
        bags_of(signals(of_site, of_class)), np.array(LABELS), np.arange(40).astype(str), np.array(SITES), 0
    )
    assert low <= found.value <= high
    assert chance == pytest.approx(0.5, abs=0.03)


def test_the_auc_of_pairs_equals_plain_loops() -> None:
    labels, sites = [0, 1, 1] * 8, (["x"] * 5 + ["y"] * 3) * 3
    cohort, task = cohort_of(labels)
    scores = np.random.default_rng(3).integers(0, 5, 24) / 4  # with ties
    rows = [np.arange(0, 24, 2), np.arange(1, 24, 2)]
    folds = [
        FoldPrediction(0, number, part, np.stack([1 - scores[part], scores[part]], axis=1), 12, "")
        for number, part in enumerate(rows)
    ]
    within, across = auc_of_pairs(task, cohort, folds, np.array(sites), 0)
    for found, same in ((within, True), (across, False)):
        won = [
            (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
            for part in rows
            for i in part
            for j in part
            if labels[i] == 1 and labels[j] == 0 and (sites[i] == sites[j]) == same
        ]
        assert found.value == pytest.approx(np.mean(won))
        assert found.low < found.value < found.high


def folds_of(scores: np.ndarray, parts: int = 1) -> list[FoldPrediction]:
    every = np.arange(len(scores))
    return [
        FoldPrediction(0, number, part, np.stack([1 - scores[part], scores[part]], axis=1), 12, "")
        for number, part in enumerate(np.array_split(every, parts))
    ]


@pytest.mark.parametrize(
    ("labels", "sites", "scores", "reason"),
    [
        # a single pair within a site, ordered wrongly: no sample of the patients differs from it
        ([0, 1, 0, 1, 0, 1], "xxyzyz", [0.9, 0.1, 0.2, 0.8, 0.3, 0.7], "only 1 patient of a class can be compared"),
        ([0, 1, 1, 1, 0, 1], "xxxxyz", [0.9, 0.1, 0.2, 0.3, 0.3, 0.7], "only 1 patient of a class can be compared"),
        ([0, 1, 0, 1, 0, 1], "xxyyzz", [0.5] * 6, "all samples of the patients have the same AUC"),
    ],
)
def test_where_patients_show_no_variance_there_is_no_interval(
    labels: list[int], sites: str, scores: list[float], reason: str
) -> None:
    cohort, task = cohort_of(labels)
    within, _ = auc_of_pairs(task, cohort, folds_of(np.array(scores)), np.array(list(sites)), 0)
    assert np.isnan([within.low, within.high]).all()
    assert reason in within.reason
    measured = Measured(within, 0.5)
    section = site_section([SiteEffects("tokens", {"auc_within": measured, "auc_across": measured}, {})])
    assert section.rows[0][1][0] == [f"{within.value:.3f}", "–"]
    assert section.findings[1:] == [within.reason]


def test_an_auc_of_0_or_1_within_sites_has_the_exact_bound() -> None:
    cohort, task = cohort_of([0, 1] * 6)
    within, across = auc_of_pairs(task, cohort, folds_of(np.array([0.9, 0.1] * 6)), np.array(list("xxyy" * 3)), 0)
    for found in (within, across):
        assert (found.value, found.low, found.reason) == (0, 0, "")
        assert found.high == pytest.approx(1 - 0.025 ** (1 / 12))  # 6 patients of each class are in pairs


def test_sites_that_are_ranked_perfectly_have_a_gap_with_an_interval() -> None:
    sites, labels = np.repeat(["a", "b", "c"], 12).tolist(), [0, 1] * 18
    found = measure(signals(0, 40, labels, sites), labels, sites).values
    assert found["auc_random"].estimate.value == found["auc_by_site"].estimate.value == 1
    assert found["auc_random"].estimate.low == pytest.approx(0.025 ** (1 / 36))
    gap = found["auc_gap"].estimate
    assert gap.low < gap.value == 0 < gap.high < 0.15


@pytest.mark.slow
def test_a_head_that_learned_the_site_is_found_out() -> None:
    rng = np.random.default_rng(2)
    sites = np.repeat([f"site{number}" for number in range(8)], 15)
    labels = (rng.random(120) < np.repeat([0.15, 0.85] * 4, 15)).astype(int).tolist()
    vectors = np.float32(0.3) * rng.standard_normal((120, 10)).astype(np.float32)
    vectors += np.repeat(np.eye(8, 10, dtype=np.float32), 15, axis=0)  # the site, nothing of the class
    found = measure(vectors, labels, sites.tolist()).values
    assert found["site_accuracy"].estimate.low > 0.9
    assert found["site_accuracy"].chance == 1 / 8
    assert found["auc_random"].estimate.value > 0.75
    assert found["auc_gap"].estimate.low > 0.1
    assert found["auc_across"].estimate.value > 0.75
    assert found["auc_within"].estimate.low < 0.5 < found["auc_within"].estimate.high
    assert found["auc_gap"].estimate.value == pytest.approx(
        found["auc_random"].estimate.value - found["auc_by_site"].estimate.value
    )


@pytest.mark.slow
def test_a_representation_without_sites_loses_nothing() -> None:
    sites = np.tile(["a", "b", "c", "d"], 30).tolist()
    labels = (np.random.default_rng(5).random(120) < 0.5).astype(int).tolist()
    found = measure(signals(0, 1, labels, sites), labels, sites).values
    assert found["auc_gap"].estimate.low < 0 < found["auc_gap"].estimate.high
    assert found["auc_within"].estimate.value > 0.85
    assert found["auc_by_site"].estimate.value > 0.85


@pytest.mark.parametrize(
    ("sites", "labels", "said"),
    [
        (
            ["one"] * 12,
            [0, 1] * 6,
            (
                "All slides are from one site, one: how well the site can be predicted cannot be measured.",
                "All slides are from one site, one: the robustness index cannot be measured.",
                "All slides are from one site, one: the AUC cannot be compared between sites.",
            ),
        ),
        ([""] * 12, [0, 1] * 6, ("No slide has a site: the robustness index cannot be measured.",)),
        (
            [f"s{number}" for number in range(12)],
            [0, 1] * 6,
            (
                "How well the site can be predicted requires at least two sites with 3 or more patients; 0 of 12 have",
                "Each site has slides of one class only: class and site cannot be told apart, and the robustness",
                "No site has patients of different classes in the same test fold: the AUC within and across sites",
            ),
        ),
        (["x"] * 6 + ["y"] * 6, [0] * 6 + [1] * 6, ("A class has 1 site, and folds need at least 3: the AUC",)),
        (["x", "y"], [0, 1], ("A class has 1 patient with a site, and folds need at least 3: the AUC",)),
    ],
)
def test_what_cannot_be_measured_is_said(sites: list[str], labels: list[int], said: tuple[str, ...]) -> None:
    found = measure(RNG.standard_normal((len(labels), 3)).astype(np.float32), labels, sites)
    sentences = findings([found, found])
    for text in said:
        assert any(sentence.startswith(text) for sentence in sentences), (text, sentences)
    assert len(sentences) == len(set(found.reasons.values())) + 2 * bool(found.values)


def test_a_patient_of_two_sites_is_no_error() -> None:
    sites = ["x", "y"] * 20
    cohort, task = cohort_of([0, 1] * 10, per_patient=2)
    found = measure_site_effects(Representation("tokens", "", bags_of(signals(1, 1))), task, cohort, np.array(sites), 0)
    assert found.reasons["auc_gap"].endswith("The AUC cannot be compared between sites.")
    assert "site_accuracy" in found.values


def test_survival_has_only_the_site_predicted() -> None:
    cohort, _ = cohort_of(LABELS)
    task = Survival(np.linspace(1, 9, 40), np.arange(40) % 2 == 0, bins=3)
    found = measure_site_effects(Representation("t", "", bags_of(signals(4, 0))), task, cohort, np.array(SITES), 0)
    assert list(found.values) == ["site_accuracy"]
    assert found.reasons["robustness_index"] == "The robustness index needs classes, but the target has none."


def test_slides_without_a_site_are_left_out() -> None:
    vectors = signals(4, 0)
    known = predict_site(vectors[:36], np.arange(36).astype(str), np.array(SITES[:36]), 0)
    some = predict_site(vectors, np.arange(40).astype(str), np.array([*SITES[:36], *[""] * 4]), 0)
    assert known == some


def test_the_section_says_what_was_found() -> None:
    section = site_section([measure(signals(4, 0), LABELS, SITES)])
    assert section.names[0] == "site predicted (balanced accuracy)"
    assert "the site is predicted with a balanced accuracy of 1.000 over 2 sites (chance 0.500)" in section.findings[0]
    assert "below its value by chance: sharing a site makes slides more similar" in section.findings[0]
    assert "A class has 2 sites, and folds need at least 3" in section.findings[1]


def test_sites_are_in_tcga_barcodes() -> None:
    import pandas as pd

    table = pd.DataFrame({"slide_id": ["TCGA-A8-A06P-01Z-00-DX1", "TCGA-05-4244-01Z"]}).set_index("slide_id")
    assert read_sites(table, "site").tolist() == ["A8", "05"]  # type: ignore[union-attr]
    assert read_sites(table.assign(site=["x", ""]), "site").tolist() == ["x", ""]  # type: ignore[union-attr]
    assert read_sites(table.assign(site=["", ""]), "site") is None
    assert read_sites(pd.DataFrame(index=["TCGA-A8-A06P-01Z", "other"]), "site") is None
