"""Stand-in until the scores file lands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.mil.results import Evaluation


def write_scores(path: Path, evaluation: Evaluation) -> None:
    """Do nothing."""
