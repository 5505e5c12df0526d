"""metrics.csv: one row every few steps, readable during the run, and identical with and without a resume."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from slpd_toolkit.config.terms import term_names
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import write_csv
from slpd_toolkit.training.meter import mean_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter


CLUSTERS = tuple(f"clusters_{name}" for name in ("smallest", "median", "largest", "empty", "degenerate"))


def columns(terms: Sequence[str] | None = None, samples: str = "regions") -> tuple[str, ...]:
    """Return the columns of metrics.csv: by default those of `slpd pretrain`.

    Args:
        terms: Names of the terms of the objective; None for those of SLPD.
        samples: What is counted per second.

    Losses, entropy (nats) and norms are means since the previous row; cluster sizes are in regions, fractions are 0-1;
    `data_wait` is the fraction of time that training waited for tokens.
    """
    return (
        "step",
        "epoch",
        *mean_names(term_names() if terms is None else terms),
        "lr",
        "weight_decay",
        "teacher_momentum",
        *(CLUSTERS if terms is None else ()),
        f"{samples}_per_s",
        "data_wait",
    )


class MetricsLog:
    """Appends rows to a CSV file; each is on disk before the next step.

    Args:
        path: The file.
        after_step: Number of steps completed; rows of later steps, left by a killed run, are dropped.
        names: Columns, from `columns`.
        events: Folder for TensorBoard event files with the same values; None for none.

    Raises:
        UsageError: Events are requested but TensorBoard is not installed.
    """

    def __init__(self, path: Path, after_step: int, names: Sequence[str], events: Path | None = None) -> None:
        self._events = None if events is None else _open_events(events, after_step)
        kept = [row for row in read_metrics(path) if int(row["step"]) <= after_step] if path.exists() else []
        write_csv(path, names, [{name: row.get(name, "") for name in names} for row in kept])
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, names, lineterminator="\n")

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; values are written at full precision."""
        self._writer.writerow(row)
        self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _open_events(folder: Path, after_step: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional dependency: imported on request
    except ImportError as error:
        raise UsageError(
            f"--tensorboard needs TensorBoard ({error}).", hint="Run: pip install 'slpd-toolkit[tensorboard]'"
        ) from error
    return SummaryWriter(folder, purge_step=after_step + 1)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the complete rows of metrics.csv; a truncated last line of a killed run is skipped."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["data_wait"] != ""]
