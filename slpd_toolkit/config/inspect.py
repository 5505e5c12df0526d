"""Settings of `slpd inspect`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Summarize the contents of a token file or a token cache.

    slpd inspect cache/

    slpd inspect cache/ --by site --manifest cohort.csv
    """

    path: Path
    """Token file (.h5) or cache folder."""

    by: str = ""
    """Also measure how strongly the mean tokens of slides depend on this manifest column, such as `site`: how well they
    predict it, and whether similar slides share it. For `site`, the column is not needed if slide IDs are TCGA
    barcodes."""

    manifest: Path | None = None
    """Cohort CSV with `patient_id`, the column of --by and, optionally, classes."""

    target: str = "label"
    """Manifest column of the classes, for --by. Without it, only the prediction of the site is measured."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(
            bool(self.by) == (self.manifest is not None), "--by with --manifest", "only one of them", "both or none"
        )
