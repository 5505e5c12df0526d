"""Two ensembles on the patients of another cohort: intervals against DeLong's variance, tests against all swaps."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from slpd_toolkit.mil.external.evaluating import Target, judge_ensemble
from slpd_toolkit.mil.statistics.evaluation import Comparison, Permutations, compare
from slpd_toolkit.mil.statistics.paired_tests import delong_covariance
from tests.mil.planted import make_cohort, task_of

if TYPE_CHECKING:
    from slpd_toolkit.mil.cohort.patients import Cohort


def outputs(cohort: Cohort, skill: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(cohort.slides))
    positive = 1 / (1 + np.exp(-(noise + skill * (cohort.strata == "b"))))
    return np.stack([1 - positive, positive], axis=1)


def compared(cohort: Cohort, one: np.ndarray, other: np.ndarray, swaps: int = 200) -> Comparison:
    target = Target(task_of(cohort), cohort, None, "patient")
    judged = [judge_ensemble(target, each) for each in (one, other)]
    return compare(target.task, judged[0], judged[1], Permutations(swaps, seed=3))["auc"]


def test_the_interval_and_the_tests_are_those_of_a_single_test_set() -> None:
    cohort = make_cohort([1] * 60, ["ab"[number % 2] for number in range(60)])
    one, other = outputs(cohort, 1.5, 0), outputs(cohort, 0.5, 1)
    found = compared(cohort, one, other)
    areas, covariance = delong_covariance(np.array([False, True] * 30), np.stack([one[:, 1], other[:, 1]]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.difference == pytest.approx(areas[0] - areas[1])
    half = (found.interval.high - found.interval.low) / 2
    assert half == pytest.approx(1.96 * math.sqrt(variance), rel=0.05)  # a t-interval is a little wider
    assert found.delong is not None
    assert found.corrected_t is None
    assert found.shared_training.inflation == 0
    assert found.shared_training.p_value == pytest.approx(found.delong.p_value, abs=0.02)
    assert not found.interval.conservative


def test_patients_are_swapped_and_not_slides() -> None:
    """Six patients with two slides: the p-value is that of all 64 swaps of patients."""
    cohort = make_cohort([2] * 6, ["a", "b"] * 3)
    one, other = outputs(cohort, 3.0, 4), outputs(cohort, -1.0, 5)
    of_patient = cohort.patient_table().of_slide
    positive = np.array([False, True] * 3)
    ranks = np.stack([
        stats.rankdata([each[of_patient == patient, 1].mean() for patient in range(6)]) for each in (one, other)
    ])  # fmt: skip

    def area(scores: np.ndarray) -> float:
        pairs = scores[positive][:, None] - scores[~positive][None, :]
        return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())

    observed = area(ranks[0]) - area(ranks[1])
    differences = []
    for swapped in product([False, True], repeat=6):
        first = np.where(swapped, ranks[1], ranks[0])
        second = np.where(swapped, ranks[0], ranks[1])
        differences.append(area(first) - area(second))
    exact = np.mean(np.abs(differences) >= abs(observed) - 1e-9)
    found = compared(cohort, one, other, swaps=4000)
    assert found.difference == pytest.approx(observed)
    assert found.permutation.p_value == pytest.approx(exact, abs=0.02)
    assert 0.01 < exact < 0.5


def test_equal_ensembles_do_not_differ() -> None:
    cohort = make_cohort([1] * 10, ["ab"[number % 2] for number in range(10)])
    same = outputs(cohort, 1.0, 2)
    found = compared(cohort, same, same)
    assert (found.difference, found.permutation.p_value, found.shared_training.p_value) == (0.0, 1.0, 1.0)
