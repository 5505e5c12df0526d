"""Settings of `slpd import`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Turn patch features that another tool extracted into a token cache."""

    source: Path
    """Folder of the feature files; `slpd import --help` lists the formats and the folder of each."""

    out: Path
    """Folder of the token cache: one HDF5 file a slide, imported.csv, failures.csv."""

    tool: str = "auto"
    """Which tool wrote the files; `auto` detects it from their content."""

    coords: Path | None = None
    """Folder of the coordinates, where they are kept apart: CLAM's patches/ (needed), slide2vec's tiles/, or one with
    <slide>.coordinates.npz (x, y) for HIPT."""

    encoder_name: str = ""
    """Patch encoder, where the files do not say it (CLAM, HIPT), or to correct them."""

    mpp: float | None = None
    """Resolution of the px that coordinates are in, um/px: level 0, but for STAMP's oldest files, whose px are the
    tiles'. Needed for CLAM and HIPT; more exact than TRIDENT's magnification. A manifest's column mpp comes first."""

    target_mpp: float | None = None
    """Resolution that the patches were read at, um/px, where the files do not say it."""

    region_px: int = 0
    """Side of a region in px at the patches' resolution, a multiple of their side. 0: 16 patches (4096 for 256)."""

    min_tissue: float = 0.1
    """Keep regions of whose places at least this share has a patch (0-1). A slide's fullest region is kept in any
    case."""

    tolerance: float = 0.5
    """How far a patch may lie from its place in the grid, along x or y, in patch sides (above 0, at most 0.5). Matters
    where a lattice begins anew at each piece of tissue (CLAM)."""

    manifest: Path | None = None
    """Cohort CSV: import only its slides, found by slide_id or by the name of slide_path, with their mpp."""

    limit: int = 0
    """Import only so many slides, the first by name. 0: all."""

    overwrite: bool = False
    """Redo slides whose token file is there already."""

    def __post_init__(self) -> None:
        """Check each value."""
        for flag, mpp in (("--mpp", self.mpp), ("--target-mpp", self.target_mpp)):
            require(mpp is None or is_plausible_mpp(mpp), flag, mpp, f"{MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} um/px")
        require_at_least(0, "region_px", self.region_px)
        require_at_least(0, "limit", self.limit)
        require(0 <= self.min_tissue <= 1, "--min-tissue", self.min_tissue, "0 to 1")
        require(0 < self.tolerance <= 0.5, "--tolerance", self.tolerance, "above 0, at most 0.5")
