"""Stand-in until the report lands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.mil.results import Evaluation
    from slpd_toolkit.report.thumbnails import Thumbnails


def write_report(path: Path, evaluation: Evaluation, thumbnails: Thumbnails) -> None:
    """Do nothing."""
