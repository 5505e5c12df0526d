"""Settings of `slpd search`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Find similar slides by matching their prototypes. Writes a table, and an HTML page with the matched regions.

    slpd search runs/nsclc TCGA-05-4244-01Z-00-DX1 --manifest cohort.csv --top 10

    slpd search runs/nsclc new-slide.svs --weights pytorch_model.bin
    """

    source: Path
    """What to search: a run folder of `slpd pretrain` (its prototypes.h5), or vectors of `slpd represent` or of another
    tool."""

    query: str
    """A slide ID in the source. For a run also a slide file, or the token file (.h5) of one: its regions are embedded
    with the run's teacher."""

    weights: Path | None = None
    """Weights file of the patch encoder, for a slide file, if the encoder needs one. Its SHA-256 must be that of the
    run's token cache."""

    top: int = 10
    """Number of slides to find."""

    candidates: int = 200
    """Number of slides with the most similar mean vectors whose prototypes are matched exactly."""

    manifest: Path | None = None
    """Cohort CSV with `patient_id`, the site and, to show images of regions, `slide_path`."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    other_patients: bool = True
    """Find slides of other patients only. Without --manifest, each slide counts as a separate patient."""

    other_sites: bool = False
    """Find slides of other sites only (needs --manifest)."""

    site_column: str = "site"
    """Manifest column of the site."""

    out: Path | None = None
    """Folder of the HTML page and its images. Default: search/ in the run folder, or next to the vectors."""

    nearest: int = 3
    """Number of nearest regions shown per prototype."""

    device: str = "auto"
    """Device of the teacher and the encoder: `auto` (GPU if available), `cpu`, `cuda`, `mps`."""

    workers: int = 2
    """Number of threads that read tokens ahead."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        for name in ("top", "candidates", "nearest", "workers"):
            require_at_least(1, name, getattr(self, name))
        require(bool(self.query), "QUERY", "nothing", "a slide ID or a token file")
        require(
            not self.other_sites or self.manifest is not None,
            "--other-sites",
            "on",
            "only with --manifest",
            f"Add --manifest CSV with the column {self.site_column}.",
        )

    @property
    def folder(self) -> Path:
        """Folder of the page, the default resolved."""
        if self.out is not None:
            return self.out
        return (self.source if self.source.is_dir() else self.source.parent) / "search"
