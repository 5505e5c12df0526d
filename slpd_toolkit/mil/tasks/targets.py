"""Converting manifest cells to targets, with checks of every cell before any work starts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed, natural_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import BoolArray, FloatArray, IntArray, StrArray

_LARGEST = 1e30
_EVENT_WORDS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def read_classes(slides: StrArray, labels: StrArray, classes: Sequence[str] = ()) -> tuple[tuple[str, ...], IntArray]:
    """Read a column of labels.

    Args:
        slides: (N,) slide IDs, for messages.
        labels: (N,) cells of the column.
        classes: The classes in order. If empty, all that occur, with numbers sorted by value.

    Returns:
        The classes, and the class index of each slide, (N,).

    Raises:
        UsageError: Empty cells, labels not in `classes`, or fewer than two classes; without `classes` also labels that
            differ only in spelling.
    """
    cells = np.char.strip(labels)
    require_cells(cells != "", slides, cells, "label", "a class")
    names = tuple(classes) or tuple(sorted(set(cells.tolist()), key=natural_key))
    if not classes:
        _require_one_spelling(names)
    require_cells(np.isin(cells, names), slides, cells, "label", " or ".join(names))
    present = sorted(set(cells.tolist()), key=natural_key)
    if len(present) < 2 or len(present) < len(names):
        raise UsageError(
            f"Classes with slides: {listed(present) or 'none'}; requested classes: {listed(names) or 'none'}.",
            hint="There must be two or more classes, each with slides.",
        )
    index = {name: position for position, name in enumerate(names)}
    return names, np.array([index[cell] for cell in cells.tolist()], dtype=np.int64)


def require_two_classes(
    found: tuple[tuple[str, ...], IntArray], sensitivity: float | None
) -> tuple[tuple[str, ...], IntArray]:
    """Return the classes and indices of `read_classes` as they are, if a threshold can have a sensitivity.

    Raises:
        UsageError: A sensitivity is asked for other than two classes.
    """
    if sensitivity is not None and len(found[0]) != 2:
        raise UsageError(
            f"--sensitivity requires two classes; found {len(found[0])}: {listed(found[0])}.",
            hint="Leave it out, or choose two classes with --classes and --allow-missing.",
        )
    return found


def read_known_classes(slides: StrArray, labels: StrArray, classes: Sequence[str]) -> IntArray:
    """Read a column of labels of another cohort.

    Args:
        slides: (N,) slide IDs, for messages.
        labels: (N,) cells of the column.
        classes: The classes of the training cohort.

    Returns:
        The class index of each slide, (N,).

    Raises:
        UsageError: Labels that are not among the classes.
    """
    cells = np.char.strip(labels)
    known = np.isin(cells, list(classes))
    if not known.all():
        unknown = sorted(set(cells[~known].tolist()), key=natural_key)
        raise UsageError(
            f"{count((~known).sum(), 'external slide is', 'external slides are')} of classes that the training cohort "
            f"does not have: {listed(unknown)} (such as {slides[~known][0]}).",
            hint=f"The classes are {listed(classes)}. Rename these labels, or leave the slides out of the manifest.",
        )
    index = {name: position for position, name in enumerate(classes)}
    return np.array([index[cell] for cell in cells.tolist()], dtype=np.int64)


def read_follow_up(slides: StrArray, times: StrArray, events: StrArray) -> tuple[FloatArray, BoolArray]:
    """Read columns of times and events.

    Args:
        slides: (N,) slide IDs, for messages.
        times: (N,) cells: numbers, 0 or more.
        events: (N,) cells: 1 if the event was observed, 0 if the time is censored.

    Returns:
        The times, and whether the event was observed, both (N,).

    Raises:
        UsageError: Invalid cells, or no events.
    """
    numbers, words = read_numbers(times), np.char.lower(np.char.strip(events))
    require_cells(np.isfinite(numbers) & (numbers >= 0), slides, times, "time", "a number, 0 or more")
    require_cells(np.isin(words, list(_EVENT_WORDS)), slides, events, "event", "1 (observed) or 0 (censored)")
    seen = np.array([_EVENT_WORDS[word] for word in words.tolist()], dtype=np.bool_)
    if not seen.any():
        raise UsageError("No slide has event 1: all times are censored.", hint="Check that 1 codes an observed event.")
    return numbers, seen


def read_numbers(cells: StrArray) -> FloatArray:
    """Convert cells to numbers, (N,); NaN if a cell is not a number, infinity beyond +-1e30, where float32 ends."""

    def number(cell: str) -> float:
        try:
            found = float(cell)
        except ValueError:
            return math.nan
        return math.copysign(math.inf, found) if abs(found) > _LARGEST else found

    return np.array([number(cell) for cell in cells.tolist()], dtype=np.float64)


def require_cells(fine: BoolArray, slides: StrArray, cells: StrArray, name: str, allowed: str) -> None:
    """Raise a `UsageError` that lists the slides with invalid cells, if there are any."""
    if not fine.all():
        wrong = [f"{slide} ({cell!r})" for slide, cell in zip(slides[~fine], cells[~fine].tolist(), strict=True)]
        raise UsageError(
            f"{count(len(wrong), 'slide has', 'slides have')} no valid {name}: {listed(wrong)}.",
            hint=f"Allowed: {allowed}.",
        )


def _require_one_spelling(names: Sequence[str]) -> None:
    """Raise an error for classes that are the same number or word in different spellings: 1 and 1.0, LUAD and luad."""
    alike: dict[tuple[bool, float, str], list[str]] = {}
    for name in names:
        is_word, value, _ = natural_key(name)
        alike.setdefault((is_word, value, name.casefold() if is_word else ""), []).append(name)
    found = [" and ".join(each) for each in alike.values() if len(each) > 1]
    if found:
        raise UsageError(
            f"Some classes differ only in spelling: {listed(found)}.",
            hint="Use one spelling, or list all classes with --classes if they are meant to differ.",
        )


def read_values(slides: StrArray, cells: StrArray, column: str) -> FloatArray:
    """Read a column of numbers, (N,).

    Args:
        slides: (N,) slide IDs, for messages.
        cells: (N,) cells of the column.
        column: Its name, for messages.

    Raises:
        UsageError: Cells that are not finite numbers, or equal numbers throughout.
    """
    values = read_numbers(cells)
    require_cells(
        np.isfinite(values),
        slides,
        cells,
        column,
        "a number from -1e30 to 1e30; for classes use --task classification",
    )
    if len(np.unique(values)) < 2:
        raise UsageError(f"All slides have {column} {values[0]:g}.", hint="There must be two or more values.")
    return values


def quantile_strata(values: FloatArray) -> StrArray:
    """Return the quarter of the distinct values' range of ranks that each value is in, (N,): `1 of 4` is the lowest."""
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    quarters = np.searchsorted(edges, values, side="left") + 1
    names: StrArray = np.array([f"{quarter} of {len(edges) + 1}" for quarter in quarters.tolist()])
    return names


def require_one_time(patients: StrArray, times: FloatArray) -> None:
    """Check that all slides of a patient have one follow-up time; see `require_one_value`."""
    require_one_value(
        patients, times, "time", "All slides of a patient need the same survival data: correct or drop these patients."
    )


def require_one_value(patients: StrArray, values: FloatArray, what: str, hint: str) -> None:
    """Check that all slides of a patient have one value.

    Args:
        patients: (N,) patients.
        values: (N,) values.
        what: What they are, for messages.
        hint: What to do.

    Raises:
        UsageError: They do not.
    """
    pairs = sorted({(str(patient), float(value)) for patient, value in zip(patients, values, strict=True)})
    twice = sorted({one for (one, _), (other, _) in pairwise(pairs) if one == other})
    if twice:
        raise UsageError(
            f"{count(len(twice), 'patient has', 'patients have')} more than one {what}: {listed(twice)}.", hint=hint
        )
