"""Settings of `slpd manifest from-clam`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FromClamConfig:
    """Convert a label table of CLAM or HIPT to a manifest.

    slpd manifest from-clam tcga_nsclc.csv --out nsclc.csv --slides-root slides/
    """

    labels: Path
    """CSV with case_id and slide_id, and optionally label (or oncotree_code), site, survival_months, censorship."""

    out: Path
    """Manifest to write (.csv)."""

    slides_root: Path | None = None
    """Folder of the slides, searched recursively (GDC downloads have one subfolder per slide); slide_path is then
    absolute. Default: slide_path is the file name only."""

    splits: tuple[Path, ...] = ()
    """splits_*.csv files, or folders of them, to check against the table for unknown slides and patients in two
    parts."""
