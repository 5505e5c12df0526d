"""metrics.csv: one row every few steps, readable while the run goes on, and the same after a resume as without it."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from slpd_toolkit.config.terms import term_names
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import write_csv
from slpd_toolkit.training.meter import mean_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter


def columns() -> tuple[str, ...]:
    """Return the columns of metrics.csv.

    Losses, entropy (nats) and norms are means since the row before; cluster sizes are in regions, their shares 0-1;
    `data_wait` is the fraction of time that training waited for tokens.
    """
    return (
        "step",
        "epoch",
        *mean_names(term_names()),
        "lr",
        "weight_decay",
        "teacher_momentum",
        "clusters_smallest",
        "clusters_median",
        "clusters_largest",
        "clusters_empty",
        "clusters_degenerate",
        "regions_per_s",
        "data_wait",
    )


class MetricsLog:
    """Appends rows to a CSV file, each on disk before the next step.

    Args:
        path: The file.
        after_step: The run continues after this many steps: rows of later ones, which a killed run left, are dropped.
        events: Folder of TensorBoard event files to write the same numbers to; None writes none.

    Raises:
        UsageError: Events are wanted and TensorBoard is not installed.
    """

    def __init__(self, path: Path, after_step: int, events: Path | None = None) -> None:
        self._events = None if events is None else _open_events(events, after_step)
        kept = [row for row in read_metrics(path) if int(row["step"]) <= after_step] if path.exists() else []
        names = columns()
        write_csv(path, names, [{name: row.get(name, "") for name in names} for row in kept])
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, names, lineterminator="\n")

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; values are written with all their digits."""
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
        from torch.utils.tensorboard import SummaryWriter  # an extra: imported when asked for
    except ImportError as error:
        raise UsageError(
            f"--tensorboard needs TensorBoard ({error}).", hint="Run: pip install 'slpd-toolkit[tensorboard]'"
        ) from error
    return SummaryWriter(folder, purge_step=after_step + 1)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the complete rows of metrics.csv; a last line that a kill cut short is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["data_wait"] != ""]
