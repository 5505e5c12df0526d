"""Selecting rows of a manifest: `--where split=train`."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

_ALLOWED = "COLUMN=VALUE, COLUMN=VALUE,VALUE or COLUMN!=VALUE"


@dataclass(frozen=True)
class Condition:
    """A condition on one column: its cell is, or is not, one of some values."""

    column: str
    values: tuple[str, ...]
    negated: bool

    def __str__(self) -> str:
        return f"{self.column}{'!=' if self.negated else '='}{','.join(self.values)}"


def parse_condition(text: str) -> Condition:
    """Parse `COLUMN=VALUE`, `COLUMN=VALUE,VALUE` (any of them) or `COLUMN!=VALUE` (none of them).

    Raises:
        UsageError: The text has another form.
    """
    column, equals, values = text.partition("=")
    negated = column.endswith("!")
    column = column.removesuffix("!").strip()
    if not equals or not column:
        raise UsageError(f"--where: got {text!r}, allowed: {_ALLOWED}.", hint="Example: --where split=train.")
    return Condition(column, tuple(value.strip() for value in values.split(",")), negated)


def select_rows(table: pd.DataFrame, where: Sequence[str], manifest: Path) -> pd.DataFrame:
    """Return the rows of a manifest that meet all conditions, in their order.

    Args:
        table: From `manifest.read_table`: all cells are text.
        where: Conditions, see `parse_condition`.
        manifest: The file, for messages.

    Raises:
        UsageError: A column or a value does not occur in the manifest, or no row meets all conditions.
    """
    chosen = table
    for condition in map(parse_condition, where):
        if condition.column not in table:
            near = get_close_matches(condition.column, table.columns, n=1)
            raise UsageError(
                f"--where {condition}: manifest {manifest} has no column {condition.column}"
                + (f" (did you mean {near[0]}?)." if near else "."),
                hint=f"Found: {', '.join(table.columns)}.",
            )
        cells = table[condition.column]
        unknown = [value for value in condition.values if not (cells == value).any()]
        if unknown:
            raise UsageError(
                f"--where {condition}: no row of {manifest} has the {condition.column} {listed(map(repr, unknown))}.",
                hint=f"Found: {listed(map(repr, sorted(cells.unique())))}.",
            )
        chosen = chosen[chosen[condition.column].isin(condition.values) != condition.negated]
    if chosen.empty:
        raise UsageError(
            f"--where: no row of {manifest} meets all conditions ({', '.join(where)}).", hint="Drop one of them."
        )
    return chosen
