"""An evaluation as plain values: metrics.json, and the rows of predictions.csv and folds.csv."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.covariate_study import arms_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slpd_toolkit.mil.cohort.audit import SplitAudit
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.statistics.calibration import Calibration
    from slpd_toolkit.mil.statistics.covariate_study import CovariateStudy
    from slpd_toolkit.mil.statistics.evaluation import Comparison
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.statistics.paired_tests import PairedTest
    from slpd_toolkit.mil.statistics.results import Evaluation, PairedResult, Representation, Result
    from slpd_toolkit.mil.statistics.retrieval import Retrieval
    from slpd_toolkit.mil.statistics.site_effects import SiteEffects

SCHEMA, VERSION = "slpd-mil-eval", 2
LEVEL = 0.95
RUNNING = frozenset({"out", "jobs", "workers"})
"""Settings that do not affect the results; written to recipe.toml, but not to metrics.json."""

FOLD_COLUMNS = ("repeat", "fold", "part", "slide_id", "patient_id")
_PREDICTION_COLUMNS = ("model", "aggregator", "repeat", "fold", "slide_id", "patient_id")


def correction(evaluation: Evaluation) -> str:
    """Describe the adjustment of p-values."""
    count = adjusted_over(evaluation)
    targets = " of all targets" if count > len(evaluation.comparisons) else ""
    return f"Holm over {count} comparison{'s' * (count != 1)}{targets}, each test by itself"


def adjusted_over(evaluation: Evaluation) -> int:
    """Return the number of comparisons that p-values are adjusted for."""
    return max((each.adjusted_over for each in evaluation.comparisons), default=0) or len(evaluation.comparisons)


def metrics_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return all numbers as JSON values. Undefined or infinite ones are null; nothing depends on time or machine."""
    document = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "target": evaluation.target,
        "task": evaluation.task.document(),
        "cohort": _cohort(evaluation.cohort),
        "counted": evaluation.unit,
        "unit_of_inference": "site" if evaluation.by_site else "patient",
        "notes": list(evaluation.notes),
        "representations": [_representation(each, evaluation.cohort) for each in evaluation.representations],
        "results": [result_document(each) for each in evaluation.results],
        "comparisons": [comparison_values(each) for each in evaluation.comparisons],
        "correction": correction(evaluation) if evaluation.comparisons else None,
        "audit": {name: _audit(audits) for name, audits in evaluation.audits.items()},
        "recipe": {name: value for name, value in evaluation.recipe.items() if name not in RUNNING},
    }
    if evaluation.of_representations.retrieval:
        document["retrieval"] = [_retrieval(each) for each in evaluation.of_representations.retrieval]
    if evaluation.of_representations.site_effects:
        document["site_effects"] = [_site_effects(each) for each in evaluation.of_representations.site_effects]
    if evaluation.of_representations.covariates is not None:
        document["covariates"] = _covariates(evaluation.of_representations.covariates)
    return {name: finite(value) for name, value in document.items()}


def prediction_rows(evaluation: Evaluation) -> tuple[list[str], Iterator[dict[str, object]]]:
    """Return columns and rows of predictions.csv: one row per test slide, split, model and aggregator."""
    task, cohort = evaluation.task, evaluation.cohort
    columns = [*_PREDICTION_COLUMNS, *task.prediction_columns]

    def rows() -> Iterator[dict[str, object]]:
        for result in evaluation.results:
            for fold in result.folds:
                cells = task.prediction_cells(fold.rows, fold.outputs)
                for row, values in zip(fold.rows, cells, strict=True):
                    place = [result.model, result.aggregator, fold.repeat, fold.fold]
                    who = [cohort.slides[row], cohort.patients[row]]
                    yield dict(zip(columns, [*place, *who, *values], strict=True))

    return columns, rows()


def covariate_rows(evaluation: Evaluation) -> tuple[list[str], Iterator[dict[str, object]]]:
    """Return columns and rows of covariates.csv: predictions from covariates alone, and from both."""
    task, cohort, study = evaluation.task, evaluation.cohort, evaluation.of_representations.covariates
    columns = ["predicted_from", *_PREDICTION_COLUMNS, *task.prediction_columns]

    def rows() -> Iterator[dict[str, object]]:
        for result in [] if study is None else study.results:
            for name, arm in arms_of(result):
                for fold in arm.folds:
                    cells = task.prediction_cells(fold.rows, fold.outputs)
                    for row, values in zip(fold.rows, cells, strict=True):
                        place = [name, result.slide.model, result.slide.aggregator, fold.repeat, fold.fold]
                        who = [cohort.slides[row], cohort.patients[row]]
                        yield dict(zip(columns, [*place, *who, *values], strict=True))

    return columns, rows()


def _covariates(study: CovariateStudy) -> dict[str, Any]:
    return {
        "columns": [
            {"name": each.name, "kind": "classes" if each.numbers is None else "number", "missing": each.missing}
            for each in study.covariates
        ],
        "results": [
            {
                "model": each.slide.model,
                "aggregator": each.slide.aggregator,
                **{
                    name.replace(" ", "_"): {
                        metric: {"mean": mean_and_sd(values)[0], "interval": _interval(arm.intervals[metric])}
                        for metric, values in arm.values.items()
                    }
                    for name, arm in arms_of(each)
                },
                "slide_adds": {name: _differences(found) for name, found in each.slide_adds.items()},
                "covariates_add": {name: _differences(found) for name, found in each.covariates_add.items()},
                "adjusted_p": each.adjusted,
            }
            for each in study.results
        ],
    }


def fold_rows(splits: Sequence[Split], cohort: Cohort) -> Iterator[dict[str, object]]:
    """Yield the rows of folds.csv: the part of every slide in every split."""
    patient_of = dict(zip(cohort.slides.tolist(), cohort.patients.tolist(), strict=True))
    for split in splits:
        for part, slides in split.parts.items():
            for slide in slides:
                yield dict(zip(FOLD_COLUMNS, (split.repeat, split.fold, part, slide, patient_of[slide]), strict=True))


def _retrieval(retrieval: Retrieval) -> dict[str, Any]:
    values = {name: vars(value) for name, value in retrieval.values.items()}
    return {**vars(retrieval), "values": values}


def _site_effects(effects: SiteEffects) -> dict[str, Any]:
    values = {name: {**each.estimate.document(), "chance": each.chance} for name, each in effects.values.items()}
    return {"model": effects.model, "values": values, "not_measured": dict(effects.reasons)}


def _cohort(cohort: Cohort) -> dict[str, Any]:
    table = cohort.patient_table()
    counts: dict[str, Any] = {"slides": len(cohort.slides), "patients": len(table.ids)}
    if cohort.strata is not None:
        counts["strata"] = {
            str(name): {
                "slides": int((cohort.strata == name).sum()),
                "patients": int((table.strata == name).sum()),
            }
            for name in np.unique(cohort.strata)
        }
    return counts


def _representation(representation: Representation, cohort: Cohort) -> dict[str, Any]:
    seen = len(set(cohort.slides.tolist()) & representation.pretrained)
    return {
        "name": representation.name,
        "source": representation.source,
        "width": representation.bags.width,
        "vectors": len(representation.bags.features),
        "pretraining_known": representation.pretraining_known,
        "slides_pretrained_on": seen if representation.pretraining_known else None,
    }


def result_document(result: Result) -> dict[str, Any]:
    """Return the metrics and folds of one model with one aggregator, as in metrics.json."""
    metrics = {}
    for name, values in result.values.items():
        mean, sd = mean_and_sd(values)
        metrics[name] = {
            "mean": mean,
            "sd": sd,
            "interval": _interval(result.intervals[name]),
            "per_fold": values.tolist(),
        }
    folds = [
        {
            "repeat": fold.repeat,
            "fold": fold.fold,
            "train": fold.train_size,
            "test": len(fold.rows),
            "kept": fold.setting,
        }
        for fold in result.folds
    ]
    return {
        "model": result.model,
        "aggregator": result.aggregator,
        "metrics": metrics,
        "calibration": None if result.calibration is None else _calibration(result.calibration),
        "folds": folds,
    }


def _calibration(calibration: Calibration) -> dict[str, Any]:
    return {
        "temperatures": calibration.temperatures.tolist(),
        "thresholds": calibration.thresholds.tolist(),
        "thresholds_for": "Youden's index" if calibration.sensitivity is None else calibration.sensitivity,
        "estimates": {
            name: {"mean": each.mean, "interval": _interval(each.interval)}
            for name, each in calibration.estimates.items()
        },
    }


def comparison_values(paired: PairedResult) -> dict[str, Any]:
    """Return all numbers of a comparison as JSON values."""
    return {
        "aggregator": paired.aggregator,
        "first": paired.first,
        "second": paired.second,
        "metrics": {name: _differences(each) for name, each in paired.metrics.items()},
        "adjusted_p": dict(paired.adjusted),
    }


def _differences(comparison: Comparison) -> dict[str, Any]:
    return {
        "difference": comparison.difference,
        "interval": _interval(comparison.interval),
        "shared_training": _test(comparison.shared_training) | {"inflation": comparison.shared_training.inflation},
        "permutation": _test(comparison.permutation),
        "corrected_t": None if comparison.corrected_t is None else _test(comparison.corrected_t),
        "delong": None if comparison.delong is None else _test(comparison.delong),
    }


def _test(test: PairedTest) -> dict[str, float | bool]:
    return {"statistic": test.statistic, "p": test.p_value, "conservative": test.conservative}


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "level": LEVEL,
        "low": interval.low,
        "high": interval.high,
        "units": interval.units,
        "conservative": interval.conservative,
        "undefined_because": interval.reason or None,
    }


def _audit(audits: Sequence[SplitAudit]) -> dict[str, Any]:
    found = [audit for audit in audits if not audit.clean]
    return {
        "clean": not found,
        "splits": len(audits),
        "splits_with_findings": len(found),
        "findings": [
            {
                "repeat": audit.repeat,
                "fold": audit.fold,
                "shared_patients": {
                    f"{one} and {other}": list(names) for (one, other), names in audit.shared_patients.items()
                },
                "pretrained_slides": list(audit.pretrained_slides),
                "pretrained_patients": list(audit.pretrained_patients),
                "shared_vectors": [{"slides": list(each.slides), "count": each.count} for each in audit.shared_vectors],
                "near_copies": [
                    {
                        "slides": list(each.slides),
                        "correlation": each.correlation,
                        "nearest_other": each.nearest_other,
                        "typical": each.typical,
                    }
                    for each in audit.near_copies
                ],
            }
            for audit in found
        ],
    }


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not support, by None."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
