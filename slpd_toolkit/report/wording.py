"""Formatting of statistics in the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slpd_toolkit.core.figures.number_format import UNDEFINED, number
from slpd_toolkit.mil.fold_values import mean_and_sd

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.intervals import Interval

TESTS = {
    "shared_training": "t-test",
    "permutation": "permutation test",
    "corrected_t": "corrected t-test of folds",
    "delong": "DeLong's test",
}
_LEAST_P = 0.001


def signed(value: float) -> str:
    """Format a difference with its sign."""
    text = number(value)
    return text if math.isnan(value) or text.startswith("−") or not float(text) else f"+{text}"


def interval(found: Interval, *, sign: bool = False) -> str:
    """Format an interval in brackets."""
    if math.isnan(found.low):
        return UNDEFINED
    write = signed if sign else number
    return f"[{write(found.low)}, {write(found.high)}]"


def mean_sd(values: FloatArray) -> str:
    """Format the mean and standard deviation over folds; a single fold has no standard deviation."""
    mean, sd = mean_and_sd(values)
    return number(mean) if math.isnan(sd) else f"{number(mean)} ± {number(sd)}"


def p_value(value: float) -> str:
    """Format a p-value for use after the letter p: `= 0.04`, `< 0.001`."""
    if math.isnan(value):
        return UNDEFINED
    if value < _LEAST_P:
        return "< 0.001"
    return f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"
