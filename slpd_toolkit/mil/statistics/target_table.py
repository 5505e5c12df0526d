"""Several targets of one cohort in one table, with p-values adjusted over all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.text import count
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.comparisons import adjust
from slpd_toolkit.mil.statistics.covariate_study import adjust_studies
from slpd_toolkit.mil.statistics.paired_tests import PairedTest, chance_test, holm
from slpd_toolkit.mil.statistics.tables import finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.evaluation import Judgement
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.statistics.results import Evaluation

SCHEMA, VERSION = "slpd-mil-eval-targets", 1
COLUMNS = (
    *("target", "slides", "patients", "model", "aggregator", "metric", "mean", "sd", "low", "high", "conservative"),
    *("p_chance", "p_chance_adjusted"),
)


@dataclass(frozen=True, eq=False)
class TargetRow:
    """The headline metric of one target by one model with one aggregator."""

    target: str
    slides: int
    patients: int
    model: str
    aggregator: str
    metric: str
    words: str
    """Name of the metric for readers."""
    values: FloatArray
    """(J,) one per fold."""
    interval: Interval
    chance: PairedTest
    """Test against the value of guessing; NaN if the metric has none, or does not vary."""
    adjusted: float
    """Its p-value, adjusted by Holm's method over all rows."""


def adjust_together(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Adjust the p-values of all comparisons, and those of covariates, over all targets."""
    pairs = [(each, paired) for each in evaluations for paired in each.comparisons]
    adjusted = iter(adjust([paired for _, paired in pairs], [each.task.headline for each, _ in pairs]))
    found = [replace(each, comparisons=tuple(next(adjusted) for _ in each.comparisons)) for each in evaluations]
    studied = [(each, each.of_representations.covariates) for each in found]
    studies = [(study, each.task.headline) for each, study in studied if study is not None]
    again = iter(adjust_studies([study for study, _ in studies], [headline for _, headline in studies]))
    return [
        each
        if study is None
        else replace(each, of_representations=replace(each.of_representations, covariates=next(again)))
        for each, study in studied
    ]


def target_rows(evaluations: Sequence[Evaluation], judgements: Sequence[Sequence[Judgement]]) -> list[TargetRow]:
    """Tabulate the headline metric of every result, with its test against guessing.

    Args:
        evaluations: One per target.
        judgements: For each of them one per result.
    """
    rows = []
    for evaluation, of_results in zip(evaluations, judgements, strict=True):
        headline = evaluation.task.headline
        metric = evaluation.task.known_metrics[headline]
        for result, judgement in zip(evaluation.results, of_results, strict=True):
            chance = PairedTest(float("nan"), float("nan"))
            if metric.chance is not None:
                chance = chance_test(
                    judgement.evidence[headline],
                    judgement.division,
                    metric.chance,
                    -1.0 if metric.scale == "agreement" else 0.0,
                )
            rows.append(
                TargetRow(
                    evaluation.target,
                    len(evaluation.cohort.slides),
                    len(np.unique(evaluation.cohort.patients)),
                    result.model,
                    result.aggregator,
                    headline,
                    metric.words,
                    result.values[headline],
                    result.intervals[headline],
                    chance,
                    float("nan"),
                )
            )
    adjusted = holm(np.array([row.chance.p_value for row in rows])).tolist()
    return [replace(row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def cells_of(rows: Sequence[TargetRow]) -> Iterator[dict[str, object]]:
    """Yield the rows of targets.csv; see `COLUMNS`."""
    for row in rows:
        mean, sd = mean_and_sd(row.values)
        own = (row.target, row.slides, row.patients, row.model, row.aggregator, row.metric, mean, sd)
        tests = (row.interval.low, row.interval.high, row.interval.conservative, row.chance.p_value, row.adjusted)
        yield {
            name: "" if isinstance(value, float) and np.isnan(value) else value
            for name, value in zip(COLUMNS, (*own, *tests), strict=True)
        }


def targets_document(rows: Sequence[TargetRow], folders: Sequence[str]) -> dict[str, Any]:
    """Return the table as JSON values, with the folder of each target."""
    return {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "folders": dict(zip(dict.fromkeys(row.target for row in rows), folders, strict=True)),
        "correction": f"Holm over {count(len(rows), 'result')} of all targets",
        "results": [finite(dict(cells)) for cells in cells_of(rows)],
    }
