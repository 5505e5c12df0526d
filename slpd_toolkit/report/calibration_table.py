"""Table of the report on calibration: probabilities, thresholds, and what they find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core.figures.number_format import number
from slpd_toolkit.report.wording import interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.results import Result

_MEASURES = {
    "ece": "ECE",
    "ece_scaled": "ECE, scaled",
    "brier": "Brier score",
    "brier_scaled": "Brier score, scaled",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


@dataclass(frozen=True)
class CalibrationRow:
    """Probabilities and decisions of one model with one aggregator, as texts."""

    model: str
    aggregator: str
    temperatures: str
    thresholds: str
    """Empty unless there are two classes."""
    rule: str
    """How thresholds were chosen."""
    estimates: Mapping[str, tuple[str, str]]
    """Mean and interval of each measure, by its title."""


def calibration_rows(results: Sequence[Result]) -> list[CalibrationRow]:
    """Tabulate the calibration of the results that have one."""
    rows = []
    for result in results:
        found = result.calibration
        if found is None:
            continue
        wanted = found.sensitivity
        rows.append(
            CalibrationRow(
                result.model,
                result.aggregator,
                _numbers(found.temperatures),
                _numbers(found.thresholds) if len(found.thresholds) else "",
                "those of Youden's index" if wanted is None else f"for a sensitivity of {wanted:g}",
                {
                    title: (number(found.estimates[name].mean), interval(found.estimates[name].interval))
                    for name, title in _MEASURES.items()
                    if name in found.estimates
                },
            )
        )
    return rows


def _numbers(values: FloatArray) -> str:
    low, high = number(float(values.min()), digits=2), number(float(values.max()), digits=2)
    return low if low == high else f"{low} to {high}"
