"""Listing, counting and sorting names for messages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MESSAGE_NAMES = 8
_NAME_CHARACTERS = 1000


def listed(names: Iterable[str]) -> str:
    """Join names for a message; after eight, state how many more there are. Very long names are shortened."""
    names = list(names)
    more = len(names) - _MESSAGE_NAMES
    return ", ".join(map(_shown, names[:_MESSAGE_NAMES])) + (f" and {more} more" if more > 0 else "")


def _shown(name: str) -> str:
    short = name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}..."
    return "".join(character if character.isprintable() else "?" for character in short)


def count(amount: int, one: str, many: str = "") -> str:
    """Format a count with its noun: `count(2, "slide")` is "2 slides".

    Args:
        amount: Number of things.
        one: Singular noun; a verb may follow: "slide is".
        many: Plural noun; `one` with an s by default.
    """
    return f"{amount:,} {agree(amount, one, many or f'{one}s')}"


def agree(amount: int, one: str, many: str) -> str:
    """Return the form of a word that agrees with a count: `agree(2, "is", "are")` is "are"."""
    return one if amount == 1 else many


def natural_key(name: str) -> tuple[bool, float, str]:
    """Sort key: numbers by value, then all other names alphabetically."""
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return (False, value, name) if math.isfinite(value) else (True, 0.0, name)
