"""The folder of an evaluation of several targets: a sub-folder for each, and one table of all."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import claim_folder, write_csv, write_text
from slpd_toolkit.core.result_folders import require_results_of
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.core.version import __version__
from slpd_toolkit.mil.bundle.reading import MODEL
from slpd_toolkit.mil.statistics.target_table import COLUMNS, cells_of, targets_document
from slpd_toolkit.report import wording
from slpd_toolkit.report.evaluation_folder import METRICS, PREDICTIONS, REPORT, TARGETS
from slpd_toolkit.report.evaluation_page import FIGURES
from slpd_toolkit.report.outcome import LEVEL
from slpd_toolkit.report.pages import render
from slpd_toolkit.report.wording import interval, marked, mean_sd, p_value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.mil.statistics.results import Evaluation
    from slpd_toolkit.mil.statistics.target_table import TargetRow

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def folder_names(targets: Sequence[str]) -> list[str]:
    """Return a file name for each target: its letters, digits and `._-`, others replaced by `_`.

    Raises:
        UsageError: Two targets would have the same folder.
    """
    names = [_UNSAFE.sub("_", target).strip(".") or "_" for target in targets]
    lower = [name.lower() for name in names]
    twice = [
        target for target, name in zip(targets, lower, strict=True) if lower.count(name) > 1 or name in {MODEL, FIGURES}
    ]
    if twice:
        raise UsageError(
            f"--target: the results of {listed(twice)} would be written to the same folder, or to one of another use.",
            hint="Rename one of these columns.",
        )
    return names


def claim_targets_folder(out: Path) -> None:
    """Create the folder before the work starts.

    Raises:
        UsageError: It cannot be written to, or has an evaluation of a single target, whose files would stay.
    """
    require_results_of("mil-eval", out)
    if (out / PREDICTIONS).exists():
        raise UsageError(f"--out: {out} has an evaluation of a single target.", hint="Use another folder.")
    claim_folder(out, (REPORT, METRICS, TARGETS))


def require_single_target(out: Path) -> None:
    """Check that a folder has no evaluation of several targets, whose files would stay.

    Raises:
        UsageError: It has.
    """
    if (out / TARGETS).exists():
        raise UsageError(f"--out: {out} has an evaluation of several targets.", hint="Use another folder.")


def write_targets(
    out: Path, rows: Sequence[TargetRow], folders: Sequence[str], evaluations: Sequence[Evaluation]
) -> None:
    """Write targets.csv, metrics.json and report.html of all targets.

    Args:
        out: The folder.
        rows: The table.
        folders: Sub-folder of each target, in order.
        evaluations: One per target.
    """
    write_csv(out / TARGETS, COLUMNS, cells_of(rows))
    write_text(out / METRICS, json.dumps(targets_document(rows, folders), indent=2, allow_nan=False) + "\n")
    pages = {each.target: quote(f"{name}/{REPORT}") for each, name in zip(evaluations, folders, strict=True)}
    page = render(
        "targets.html",
        rows=rows,
        pages=pages,
        version=__version__,
        wording=wording,
        adjusted=_adjusted,
        sentences=sentences(rows),
        correction=len(rows),
    )
    write_text(out / REPORT, page)


def sentences(rows: Sequence[TargetRow]) -> list[str]:
    """State which targets are predicted better than by guessing."""
    shown = list(dict.fromkeys(row.target for row in rows if row.adjusted < LEVEL and row.chance.statistic > 0))
    targets = len({row.target for row in rows})
    level = f"(Holm-adjusted p < {LEVEL})"
    if not shown:
        return [f"No target is shown to be predicted better than by guessing {level}."]
    return [f"{len(shown)} of {targets} targets are predicted better than by guessing {level}: {listed(shown)}."]


def print_targets(rows: Sequence[TargetRow]) -> None:
    """Print the table of all targets."""
    table = [
        {
            "target": row.target,
            "patients": f"{row.patients:,}",
            "model": row.model,
            "aggregator": row.aggregator,
            "mean ± sd": mean_sd(row.values),
            "95 % interval": interval(row.interval),
            "p": _adjusted(row),
        }
        for row in rows
    ]
    words = listed(dict.fromkeys(row.words for row in rows))
    console.table(f"All targets: {words}; p against guessing, adjusted (Holm, {count(len(rows), 'result')})", table)


def _adjusted(row: TargetRow) -> str:
    text = p_value(row.adjusted).removeprefix("= ")
    return f"{text}{marked(row.chance)}"
