"""Formatting of numbers and names in figures and reports."""

from __future__ import annotations

import math

UNDEFINED = "undefined"
_LONGEST = 28


def number(value: float, *, digits: int = 3) -> str:
    """Format a number with a typographic minus sign."""
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def short(name: str) -> str:
    """Shorten a name for a figure by removing its middle."""
    if len(name) > _LONGEST:
        half = (_LONGEST - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    # matplotlib hides labels that start with an underscore
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
