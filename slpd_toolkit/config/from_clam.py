"""Settings of `slpd manifest from-clam`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FromClamConfig:
    """Turn a label table of CLAM or HIPT into a manifest.

    slpd manifest from-clam tcga_nsclc.csv --out nsclc.csv --slides-root slides/
    """

    labels: Path
    """CSV with case_id and slide_id, and if it has them label (or oncotree_code), site, survival_months, censorship."""

    out: Path
    """Manifest to write (.csv)."""

    slides_root: Path | None = None
    """Folder of the slides, searched with its subfolders (GDC downloads have one a slide): paths become absolute.
    Default: slide_path is the bare file name."""

    splits: tuple[Path, ...] = ()
    """Check these splits_*.csv, or folders of them, against the table: unknown slides, patients in two parts."""
