"""Settings of the prototype atlas."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require_at_least


@dataclass(frozen=True, kw_only=True)
class PrototypesConfig:
    """Show the slide prototypes of a pretraining run: a table, and an HTML atlas.

    slpd prototypes runs/nsclc --manifest cohort.csv
    """

    run: Path
    """Run folder of `slpd pretrain`."""

    out: Path | None = None
    """Folder of the atlas. Default: atlas/ in the run folder."""

    manifest: Path | None = None
    """Cohort CSV; with it the atlas shows the slides' own pixels."""

    slides_root: Path | None = None
    """Folder that relative slide paths start from. Default: the manifest's folder."""

    limit: int = 40
    """Slides in the atlas, those with the most regions first. 0: all."""

    nearest: int = 4
    """Regions shown for each prototype: those nearest to its centre."""

    def __post_init__(self) -> None:
        """Check each value."""
        require_at_least(0, "limit", self.limit)
        require_at_least(1, "nearest", self.nearest)
