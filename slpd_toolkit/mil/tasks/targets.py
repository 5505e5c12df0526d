"""Manifest columns to tasks: every target is checked before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed, natural_key
from slpd_toolkit.mil.tasks.task import Classification, Survival

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, StrArray

_EVENT_WORDS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def read_classification(
    slides: StrArray, labels: StrArray, *, classes: Sequence[str] = (), ordinal: bool = False
) -> Classification:
    """Read a column of labels.

    Args:
        slides: (N,) slide ids, for messages.
        labels: (N,) cells of the column.
        classes: The classes, ordinal ones from low to high. Empty: those that occur, sorted as numbers where they are.
        ordinal: The classes are ordered.

    Raises:
        UsageError: Empty cells, labels that are not among `classes`, or fewer than two classes; without `classes` also
            labels that differ in their spelling alone.
    """
    cells = np.char.strip(labels)
    _require(cells != "", slides, cells, "label", "a class")
    names = tuple(classes) or tuple(sorted(set(cells.tolist()), key=natural_key))
    if not classes:
        _require_one_spelling(names)
    _require(np.isin(cells, names), slides, cells, "label", " or ".join(names))
    present = sorted(set(cells.tolist()), key=natural_key)
    if len(present) < 2 or len(present) < len(names):
        raise UsageError(
            f"The slides are of class {listed(present) or 'none'}; to be told apart are {listed(names) or 'none'}.",
            hint="Each class needs slides, and there must be two classes or more.",
        )
    index = {name: position for position, name in enumerate(names)}
    return Classification(names, np.array([index[cell] for cell in cells.tolist()], dtype=np.int64), ordinal)


def read_survival(slides: StrArray, times: StrArray, events: StrArray, *, bins: int = 4) -> Survival:
    """Read columns of times and events.

    Args:
        slides: (N,) slide ids, for messages.
        times: (N,) cells: numbers, 0 or more.
        events: (N,) cells: 1 where the event was seen, 0 where the time is censored.
        bins: Time bins, two or more.

    Raises:
        UsageError: Cells that are no such numbers, no event at all, or fewer than two bins.
    """
    if bins < 2:
        raise UsageError(f"Got {bins} time bins.", hint="Allowed: 2 or more.")
    numbers, words = _as_numbers(times), np.char.lower(np.char.strip(events))
    _require(np.isfinite(numbers) & (numbers >= 0), slides, times, "time", "a number, 0 or more")
    _require(np.isin(words, list(_EVENT_WORDS)), slides, events, "event", "1 (seen) or 0 (censored)")
    seen = np.array([_EVENT_WORDS[word] for word in words.tolist()], dtype=np.bool_)
    if not seen.any():
        raise UsageError("No slide has event 1: all times are censored.", hint="Check that 1 means the event was seen.")
    return Survival(numbers, seen, bins)


def _require_one_spelling(names: Sequence[str]) -> None:
    """Refuse classes that are one number or one word: 1 and 1.0, LUAD and luad."""
    alike: dict[tuple[bool, float, str], list[str]] = {}
    for name in names:
        is_word, value, _ = natural_key(name)
        alike.setdefault((is_word, value, name.casefold() if is_word else ""), []).append(name)
    found = [" and ".join(each) for each in alike.values() if len(each) > 1]
    if found:
        raise UsageError(
            f"Some classes differ in their spelling alone: {listed(found)}.",
            hint="Spell them alike, or name them all with --classes if they are meant to differ.",
        )


def _as_numbers(cells: StrArray) -> FloatArray:
    def number(cell: str) -> float:
        try:
            return float(cell)
        except ValueError:
            return float("nan")

    return np.array([number(cell) for cell in cells.tolist()], dtype=np.float64)


def _require(fine: BoolArray, slides: StrArray, cells: StrArray, name: str, allowed: str) -> None:
    if not fine.all():
        wrong = [f"{slide} ({cell!r})" for slide, cell in zip(slides[~fine], cells[~fine].tolist(), strict=True)]
        raise UsageError(f"{len(wrong)} slides have no usable {name}: {listed(wrong)}.", hint=f"Allowed: {allowed}.")
