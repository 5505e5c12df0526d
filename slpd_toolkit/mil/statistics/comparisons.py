"""Comparisons of every two models with each aggregator, with p-values adjusted for the number of comparisons."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np

from slpd_toolkit.mil.statistics.evaluation import compare
from slpd_toolkit.mil.statistics.paired_tests import holm
from slpd_toolkit.mil.statistics.results import PairedResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.statistics.evaluation import Comparison, Judgement, Permutations
    from slpd_toolkit.mil.tasks.task import Task

TESTS = ("shared_training", "permutation", "corrected_t", "delong")


class Named(Protocol):
    """A model with an aggregator."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def aggregator(self) -> str:
        """Name of the aggregator."""


def compare_all(
    task: Task, results: Sequence[Named], judgements: Sequence[Judgement], permutations: Permutations
) -> tuple[PairedResult, ...]:
    """Compare models that share an aggregator, aggregator by aggregator.

    Args:
        task: Prediction task.
        results: Every model with every aggregator.
        judgements: One per result. Those of an aggregator are based on the same splits.
        permutations: Number of swaps, and their seed.
    """
    judged = list(zip(results, judgements, strict=True))
    aggregators = dict.fromkeys(result.aggregator for result in results)
    pairs = [
        pair
        for name in aggregators
        for pair in combinations([each for each in judged if each[0].aggregator == name], 2)
    ]
    found = [compare(task, one, other, permutations) for (_, one), (_, other) in pairs]
    unadjusted = [
        PairedResult(one.aggregator, one.model, other.model, found[index], {})
        for index, ((one, _), (other, _)) in enumerate(pairs)
    ]
    return tuple(adjust(unadjusted, [task.headline] * len(unadjusted)))


def adjust(comparisons: Sequence[PairedResult], headlines: Sequence[str]) -> list[PairedResult]:
    """Adjust the p-values of all comparisons together by Holm's method, test by test.

    Args:
        comparisons: All of them, also of several targets.
        headlines: Headline metric of each.
    """
    adjusted = {
        test: holm(
            np.array([_p_value(each.metrics[name], test) for each, name in zip(comparisons, headlines, strict=True)])
        )
        for test in TESTS
    }
    return [
        replace(each, adjusted={test: float(adjusted[test][index]) for test in TESTS}, adjusted_over=len(comparisons))
        for index, each in enumerate(comparisons)
    ]


def _p_value(comparison: Comparison, test: str) -> float:
    paired = getattr(comparison, test)
    return float("nan") if paired is None else float(paired.p_value)
