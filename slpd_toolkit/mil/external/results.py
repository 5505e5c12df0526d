"""Results on an external cohort, as plain values for the report and metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.tables import comparison_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.bundle.bundle import HeadOutputs
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.statistics.bootstrap import Estimate
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.statistics.results import PairedResult
    from slpd_toolkit.mil.tasks.task import Task

ENSEMBLE = "ensemble"
"""Value of `repeat` in rows of the mean over heads."""


@dataclass(frozen=True)
class AtThreshold:
    """Sensitivity and specificity for the second class, over patients."""

    where: str
    threshold: float
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class SiteRow:
    """One site of the external cohort."""

    site: str
    slides: int
    patients: int
    headline: Estimate
    """Headline metric of the ensemble."""


@dataclass(frozen=True, eq=False)
class ExternalResult:
    """One model with one aggregator on the external cohort."""

    model: str
    aggregator: str
    heads: Sequence[HeadOutputs]
    ensemble: FloatArray
    """(n, C) mean over heads, after temperature scaling."""
    values: Mapping[str, FloatArray]
    """(J,) values of each metric, one per head."""
    intervals: Mapping[str, Interval]
    """Of the mean over heads, for other patients of the external cohort; the heads are held fixed."""
    of_ensemble: Mapping[str, Estimate]
    """Metrics of the ensemble."""
    drops: Mapping[str, Estimate]
    """Mean in cross-validation minus mean over heads here, with a bootstrap interval over the patients of both."""
    thresholds: Sequence[AtThreshold]
    """At the threshold of the bundle, in cross-validation and here, and at one that is tuned here; only for two
    classes."""
    calibration: Mapping[str, tuple[Estimate, Estimate]]
    """Measure -> value in cross-validation and here; only for classes."""
    sites: Sequence[SiteRow]
    far: int
    """Number of slides that are far from the training set."""


@dataclass(frozen=True)
class SharedIdentities:
    """What the external cohort shares with the training cohort."""

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    equal_embeddings: tuple[tuple[str, int], ...]
    """External slides with regions whose embeddings are bit-identical to those of a training slide, and how many."""
    near_copies: tuple[str, ...]
    """Descriptions of groups of near-copies with slides of both cohorts."""
    pretrained_slides: tuple[str, ...]
    """External slides that were used in pretraining."""
    pretraining_known: bool
    near_copies_compared: bool = True
    """Whether there are enough slides to recognize near-copies."""

    @property
    def clean(self) -> bool:
        """Whether nothing is shared."""
        return not (self.slides or self.patients or self.equal_embeddings or self.near_copies or self.pretrained_slides)


@dataclass(frozen=True, eq=False)
class External:
    """An external validation."""

    source: str
    """Description of the cohort."""
    task: Task
    """Its targets."""
    cohort: Cohort
    results: Sequence[ExternalResult]
    comparisons: Sequence[PairedResult]
    """Comparisons of every two models with the same aggregator, by their ensembles, which are held fixed;
    p-values are adjusted over all of them."""
    audits: Mapping[str, SharedIdentities]
    """By model."""
    notes: Sequence[str]


def external_document(external: External) -> dict[str, Any]:
    """Return all numbers as JSON values."""
    return {
        "source": external.source,
        "cohort": {
            "slides": len(external.cohort.slides),
            "patients": len(external.cohort.patient_table().ids),
        },
        "notes": list(external.notes),
        "results": [_result(each) for each in external.results],
        "comparisons": [comparison_values(each) for each in external.comparisons],
        "audit": {name: vars(audit) | {"clean": audit.clean} for name, audit in external.audits.items()},
    }


def external_rows(external: External) -> tuple[list[str], Iterator[dict[str, object]]]:
    """Return columns and rows of external_predictions.csv: every head, and the ensemble, for every slide."""
    task, cohort = external.task, external.cohort
    columns = ["model", "aggregator", "repeat", "fold", "slide_id", "patient_id", *task.prediction_columns]

    def rows() -> Iterator[dict[str, object]]:
        import numpy as np

        every = np.arange(len(cohort.slides))
        for result in external.results:
            outputs = {tuple(head.name.split(".")): head.raw for head in result.heads} | {
                (ENSEMBLE, ""): result.ensemble
            }
            for (repeat, fold), values in outputs.items():
                for row, cells in zip(every, task.prediction_cells(every, values), strict=True):
                    who = [cohort.slides[row], cohort.patients[row]]
                    place = [result.model, result.aggregator, repeat, fold]
                    yield dict(zip(columns, [*place, *who, *cells], strict=True))

    return columns, rows()


def _result(result: ExternalResult) -> dict[str, Any]:
    return {
        "model": result.model,
        "aggregator": result.aggregator,
        "metrics": {
            name: {
                "mean": mean_and_sd(values)[0],
                "sd": mean_and_sd(values)[1],
                "low": result.intervals[name].low,
                "high": result.intervals[name].high,
                "per_head": values.tolist(),
                "ensemble": result.of_ensemble[name].document(),
                "drop": result.drops[name].document(),
            }
            for name, values in result.values.items()
        },
        "thresholds": [
            {
                "where": each.where,
                "threshold": each.threshold,
                "sensitivity": each.sensitivity.document(),
                "specificity": each.specificity.document(),
            }
            for each in result.thresholds
        ],
        "calibration": {
            name: {"internal": inside.document(), "external": outside.document()}
            for name, (inside, outside) in result.calibration.items()
        },
        "sites": [vars(each) | {"headline": each.headline.document()} for each in result.sites],
        "far_from_training": result.far,
    }
