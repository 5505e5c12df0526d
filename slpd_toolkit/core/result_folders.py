"""Which command wrote the results in a folder: files of the same names would replace one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_MARKS = {
    "region_vit.pt": ("pretrain", "a run of `slpd pretrain`"),
    "slide_vit.pt": ("pretrain-slides", "a run of `slpd pretrain-slides`"),
    "folds.csv": ("mil-eval", "an evaluation of `slpd mil-eval`"),
    "targets.csv": ("mil-eval", "evaluations of several targets by `slpd mil-eval`"),
    "heads.csv": ("predict", "predictions of `slpd predict`"),
    "bundle.json": ("bundle", "a bundle of `slpd mil-eval`"),
    "about.json": ("represent", "vectors of `slpd represent`"),
}
"""Files that only one command writes: its name, and what the folder has."""


def require_results_of(command: str, out: Path) -> None:
    """Check that a folder has no results of another command.

    Raises:
        UsageError: It has.
    """
    for name, (owner, what) in _MARKS.items():
        if owner != command and (out / name).exists():
            raise UsageError(
                f"--out: {out} has {what} ({name}), whose files would be overwritten.",
                hint="Choose a separate folder.",
            )
