"""Formatting of statistics in the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slpd_toolkit.core.figures.number_format import UNDEFINED, number
from slpd_toolkit.mil.fold_values import mean_and_sd
from slpd_toolkit.mil.statistics.intervals import Interval

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.paired_tests import PairedTest

TESTS = {
    "shared_training": "t-test",
    "permutation": "permutation test",
    "corrected_t": "corrected t-test of folds",
    "delong": "DeLong's test",
}
_LEAST_P = 0.001
MARK = "*"
CONSERVATIVE = f"{MARK} conservative: the interval covers more than 95 %, the test rejects below 5 %"
"""Explanation of the mark, in one line of 80 columns."""


def signed(value: float) -> str:
    """Format a difference with its sign."""
    text = number(value)
    return text if math.isnan(value) or text.startswith("−") or not float(text) else f"+{text}"


def interval(found: Interval, *, sign: bool = False) -> str:
    """Format an interval in brackets, with a mark if it is conservative."""
    return f"{bare_interval(found, sign=sign)}{marked(found)}"


def bare_interval(found: Interval, *, sign: bool = False) -> str:
    """Format an interval in brackets."""
    if math.isnan(found.low):
        return UNDEFINED
    write = signed if sign else number
    return f"[{write(found.low)}, {write(found.high)}]"


def marked(found: Interval | PairedTest) -> str:
    """Return the mark of conservative intervals and tests; empty for others, and for undefined ones."""
    undefined = math.isnan(found.low if isinstance(found, Interval) else found.p_value)
    return MARK if found.conservative and not undefined else ""


def conservative(found: Interval | PairedTest) -> str:
    """Return `conservative` with a space behind it, for sentences; empty for other intervals and tests."""
    return "conservative " if marked(found) else ""


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
