"""Every two models under each aggregator, their p-values adjusted for how many comparisons there are."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.statistics.evaluation import compare
from slpd_toolkit.mil.statistics.paired_tests import holm
from slpd_toolkit.mil.statistics.results import PairedResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.statistics.evaluation import Comparison, Resampling
    from slpd_toolkit.mil.statistics.results import Result
    from slpd_toolkit.mil.tasks.task import Task

TESTS = ("corrected_t", "permutation", "delong")


def compare_all(
    task: Task, cohort: Cohort, results: Sequence[Result], resampling: Resampling
) -> tuple[PairedResult, ...]:
    """Compare models that share an aggregator, aggregator by aggregator.

    Args:
        task: What was predicted.
        cohort: Its slides in the order of the task's targets.
        results: Every model under every aggregator, on the same splits.
        resampling: Number of samples and swaps, and their seed.
    """
    aggregators = dict.fromkeys(result.aggregator for result in results)
    pairs = [
        pair
        for name in aggregators
        for pair in combinations([result for result in results if result.aggregator == name], 2)
    ]
    found = [compare(task, cohort, one.folds, other.folds, resampling) for one, other in pairs]
    raw = {test: np.array([_p_value(each[task.headline], test) for each in found]) for test in TESTS}
    adjusted = {test: holm(p_values) for test, p_values in raw.items()}
    return tuple(
        PairedResult(
            one.aggregator,
            one.model,
            other.model,
            found[index],
            {test: float(adjusted[test][index]) for test in TESTS},
        )
        for index, (one, other) in enumerate(pairs)
    )


def _p_value(comparison: Comparison, test: str) -> float:
    paired = getattr(comparison, test)
    return float("nan") if paired is None else float(paired.p_value)
