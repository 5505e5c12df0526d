"""How figures and reports write numbers and names."""

from __future__ import annotations

import math

UNDEFINED = "undefined"
_LONGEST = 28


def number(value: float, *, digits: int = 3) -> str:
    """Write a number with a true minus sign."""
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def count(amount: int, noun: str) -> str:
    """Write a count with its noun, in the plural unless it is one."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def short(name: str) -> str:
    """Shorten a name for a figure by cutting its middle, which tells less than its ends."""
    if len(name) > _LONGEST:
        half = (_LONGEST - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    # matplotlib hides labels that begin with an underscore
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
