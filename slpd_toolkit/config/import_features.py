"""Settings of `slpd import`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Convert patch features extracted by another tool to a token cache."""

    source: Path
    """Folder of the feature files; `slpd import --help` lists the formats and the folder for each."""

    out: Path
    """Folder of the token cache: one HDF5 file per slide, imported.csv, failures.csv."""

    tool: str = "auto"
    """Tool that wrote the files; `auto` detects it from their content."""

    coords: Path | None = None
    """Folder of the coordinates, if they are separate: CLAM's patches/ (required), slide2vec's tiles/, or a folder of
    <slide>.coordinates.npz (x, y) for HIPT."""

    encoder_name: str = ""
    """Name of the patch encoder, if the files do not record it (CLAM, HIPT) or record it wrongly."""

    mpp: float | None = None
    """Resolution of the coordinates in um/px: that of level 0, except for STAMP's oldest files, whose coordinates are
    in tile pixels. Required for CLAM and HIPT; more exact than TRIDENT's magnification. The manifest's mpp column takes
    precedence."""

    target_mpp: float | None = None
    """Resolution of the patches in um/px, if the files do not record it."""

    region_px: int = 0
    """Side of a region in px at the patch resolution, a multiple of the patch side. 0: 16 patches (4096 for 256-px
    patches)."""

    min_tissue: float = 0.1
    """Minimum fraction of a region's grid positions that have a patch (0-1). The fullest region of a slide is always
    kept."""

    tolerance: float = 0.5
    """Maximum distance of a patch from its grid position along x or y, in patch sides (above 0, at most 0.5). Relevant
    if each piece of tissue has its own lattice (CLAM)."""

    manifest: Path | None = None
    """Cohort CSV: import only its slides, matched by slide_id or by the file name of slide_path, with their mpp."""

    limit: int = 0
    """Import only the first slides by name, up to this number. 0: all."""

    overwrite: bool = False
    """Import slides again even if they have a token file."""

    def __post_init__(self) -> None:
        """Check each value."""
        for flag, mpp in (("--mpp", self.mpp), ("--target-mpp", self.target_mpp)):
            require(mpp is None or is_plausible_mpp(mpp), flag, mpp, f"{MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} um/px")
        require_at_least(0, "region_px", self.region_px)
        require_at_least(0, "limit", self.limit)
        require(0 <= self.min_tissue <= 1, "--min-tissue", self.min_tissue, "0 to 1")
        require(0 < self.tolerance <= 0.5, "--tolerance", self.tolerance, "above 0, at most 0.5")
