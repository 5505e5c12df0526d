"""Terminal output: progress, tables, notes, warnings and errors. The only module that imports rich.

On a terminal, progress is a live bar with rate and time left. Elsewhere (a SLURM log, a pipe), it is a plain line every
few seconds. rich is imported on first use, so importing this module is cheap.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LOG_EVERY_S = 15.0
_PLAIN_WIDTH = 80
_SECONDS_PER_MINUTE = 60
_step: ContextVar[str] = ContextVar("step", default="")
_results_shown: ContextVar[bool] = ContextVar("results_shown", default=True)


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False)  # "[" in a path is not markup
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console


@contextmanager
def step(title: str) -> Iterator[None]:
    """Run a command as one step of a longer one: prefix progress lines with `title`; hide notes and tables.

    Warnings and errors are still shown.
    """
    token = _step.set(title)
    try:
        yield
    finally:
        _step.reset(token)


@contextmanager
def without_results() -> Iterator[None]:
    """Suppress tables on standard output, for commands whose results are returned as objects."""
    token = _results_shown.set(False)
    try:
        yield
    finally:
        _results_shown.reset(token)


@dataclass
class Verbosity:
    """How much is written to standard error."""

    quiet: bool = False
    """Show warnings and errors only: no notes, no progress."""


VERBOSITY = Verbosity()
"""Verbosity of this process."""


def note(message: str) -> None:
    """Print information to standard error; standard output is reserved for results."""
    if _step.get() or VERBOSITY.quiet:
        return
    _console(stderr=True).print(message, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning that the user should act on."""
    _console(stderr=True).print(f"warning: {message}", style="yellow", soft_wrap=True)


def warn_if(message: str) -> None:
    """Warn unless there is nothing to say."""
    if message:
        warn(message)


def error(message: str, hint: str = "") -> None:
    """Print what went wrong and what to do next."""
    _console(stderr=True).print(f"error: {message}", style="bold red", soft_wrap=True)
    if hint:
        _console(stderr=True).print(f"  next: {hint}", soft_wrap=True)


def table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with equal keys as a table that fits into 80 columns; numbers are right-aligned."""
    from rich import box
    from rich.table import Table

    if not rows or _step.get() or not _results_shown.get():
        return
    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, value in rows[0].items():
        grid.add_column(column, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(value) for value in row.values()))
    _console(stderr=False).print(grid)


def text(lines: Iterable[str]) -> None:
    """Print lines to standard output as they are."""
    for line in lines:
        if not _step.get() and _results_shown.get():
            _console(stderr=False).print(line, soft_wrap=True)


def paragraphs(texts: Iterable[str]) -> None:
    """Print paragraphs to standard output, wrapped at 80 columns, followed by an empty line."""
    from textwrap import fill

    text([*(fill(each, _PLAIN_WIDTH, break_long_words=False, break_on_hyphens=False) for each in texts), ""])


def facts(title: str, values: Mapping[str, object]) -> None:
    """Print a two-column list of facts."""
    from rich import box
    from rich.table import Table

    if _step.get() or not _results_shown.get():
        return
    grid = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, _cell(value))
    _console(stderr=False).print(title, style="bold")  # a title of the table itself would be wrapped to its width
    _console(stderr=False).print(grid)


def human_bytes(count: float) -> str:
    """Format a number of bytes with a binary unit: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """Format a duration: `8.3 s`, `4:05`, `1:02:33`."""
    if seconds < _SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _SECONDS_PER_MINUTE)
    hours, minutes = divmod(minutes, _SECONDS_PER_MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(title: str, *, total: float, unit: str, shown: bool = True) -> Iterator[Progress]:
    """Show one progress line for the duration of the block.

    Args:
        title: Description of the work.
        total: Number of units, if known; can be corrected with `Progress.expect`.
        unit: Name of the units, in the plural.
        shown: False if another process reports progress for this one.
    """
    title = f"{_step.get()}: {title}" if _step.get() else title
    if not shown or VERBOSITY.quiet:
        yield Progress(title, total, unit, log_every_s=float("inf"))
        return
    if not _console(stderr=True).is_terminal:
        yield Progress(title, total, unit)
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn(f"{{task.fields[rate]}} {unit}/s"),
        TextColumn("{task.fields[status]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with RichProgress(*columns, console=_console(stderr=True)) as live:
        yield Progress(title, total, unit, live)


class Progress:
    """Running count with a rate: a live bar on a terminal, otherwise a log line every 15 seconds."""

    def __init__(
        self,
        title: str,
        total: float,
        unit: str,
        live: RichProgress | None = None,
        log_every_s: float = _LOG_EVERY_S,
    ) -> None:
        self._title, self._total, self._unit, self._live = title, total, unit, live
        self._log_every_s = log_every_s
        self._done = 0.0
        self._started = self._logged = time.monotonic()
        self._task: TaskID | None = live.add_task(title, total=total, rate="-", status="") if live else None

    def expect(self, total: float) -> None:
        """Correct the total number of units."""
        self._total = total
        if self._live is not None and self._task is not None:
            self._live.update(self._task, total=total)

    def advance(self, count: float, status: str = "") -> None:
        """Add `count` finished units; `status` is a short text shown next to the rate."""
        self._done += count
        now = time.monotonic()
        rate = self._done / max(now - self._started, 1e-9)
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=self._done, rate=f"{rate:.1f}", status=status)
        elif now - self._logged >= self._log_every_s:
            self._logged = now
            left = human_seconds((self._total - self._done) / rate) if rate > 0 else "?"
            counts = f"{self._done:.0f}/{self._total:.0f} {self._unit}, {rate:.1f}/s, {left} left"
            line = f"{self._title}: {counts}{f', {status}' if status else ''}"
            _console(stderr=True).print(line, soft_wrap=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
