"""Settings of `slpd prototypes`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require_at_least, require_manifest


@dataclass(frozen=True, kw_only=True)
class PrototypesConfig:
    """Show the slide prototypes of a pretraining run as a table and an HTML atlas.

    slpd prototypes runs/nsclc --manifest cohort.csv
    """

    run: Path
    """Run folder of `slpd pretrain`."""

    out: Path | None = None
    """Folder of the atlas. Default: atlas/ in the run folder."""

    manifest: Path | None = None
    """Cohort CSV. With it, the atlas shows the pixels of the slides."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    where: tuple[str, ...] = ()
    """Show only slides whose row of the manifest meets this condition: `split=test`, `site=A2,BH` (any of these) or
    `split!=train`. Repeat the option to require several conditions."""

    limit: int = 40
    """Maximum number of slides in the atlas, those with the most regions first. 0: all."""

    nearest: int = 4
    """Number of nearest regions shown per prototype."""

    def __post_init__(self) -> None:
        """Check each value."""
        require_manifest(self.where, self.manifest)
        require_at_least(0, "limit", self.limit)
        require_at_least(1, "nearest", self.nearest)
