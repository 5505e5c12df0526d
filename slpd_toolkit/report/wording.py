"""How the report writes numbers and names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slpd_toolkit.mil.statistics.intervals import mean_and_sd

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.intervals import Interval

METRICS = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "f1": "F1 (macro)",
    "kappa": "Cohen's kappa",
    "quadratic_kappa": "quadratic kappa",
    "c_index": "concordance index",
}
CHANCE = {"auc": 0.5, "c_index": 0.5, "kappa": 0.0, "quadratic_kappa": 0.0}
"""What guessing reaches, whatever the shares of the classes."""

TESTS = {"corrected_t": "corrected t-test", "permutation": "permutation test", "delong": "DeLong's test"}
UNDEFINED = "undefined"
_LEAST_P = 0.001
_LONGEST = 28


def metric(name: str) -> str:
    """Give a metric's name in words."""
    return METRICS.get(name, name.replace("_", " "))


def number(value: float, *, digits: int = 3) -> str:
    """Write a number with a true minus sign."""
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def signed(value: float) -> str:
    """Write a difference with its sign."""
    text = number(value)
    return text if math.isnan(value) or text.startswith("−") or not float(text) else f"+{text}"


def interval(found: Interval, *, sign: bool = False) -> str:
    """Write an interval in brackets."""
    if math.isnan(found.low):
        return UNDEFINED
    write = signed if sign else number
    return f"[{write(found.low)}, {write(found.high)}]"


def mean_sd(values: FloatArray) -> str:
    """Write the mean and standard deviation over folds; a single fold has no deviation."""
    mean, sd = mean_and_sd(values)
    return number(mean) if math.isnan(sd) else f"{number(mean)} ± {number(sd)}"


def p_value(value: float) -> str:
    """Write a p-value as one does after `p`."""
    if math.isnan(value):
        return UNDEFINED
    if value < _LEAST_P:
        return "< 0.001"
    return f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"


def count(amount: int, noun: str) -> str:
    """Write a count with its noun, in the plural where it is not one."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def short(name: str) -> str:
    """Shorten a name for a figure: its ends tell more than its middle."""
    if len(name) > _LONGEST:
        half = (_LONGEST - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    # matplotlib takes a label with a leading underscore for one that is not to be shown
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
