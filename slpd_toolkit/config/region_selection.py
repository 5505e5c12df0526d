"""Settings of which regions of a slide are embedded."""

from dataclasses import dataclass

from slpd_toolkit.config.checks import require

ACCEPTANCE = ("max_upsample", "allow_missing_pixels")
"""Settings that only decide which slides fail; slides of one cache may have different values."""


@dataclass(frozen=True, kw_only=True)
class RegionSelectionConfig:
    """Which regions are embedded, and which slides are accepted.

    All settings are stored with the tokens and in bundles. A cache never mixes values, except those of `ACCEPTANCE`.
    """

    min_tissue: float = 0.1
    """Minimum tissue fraction of a region (0-1). The region with the most tissue is always kept."""

    max_upsample: float = 1.6
    """Maximum factor by which a slide may be upsampled to the target resolution; slides that need more fail."""

    allow_missing_pixels: bool = False
    """Embed slides whose file lacks pixels in tissue, or has tiles that disagree with the thumbnail. Affected patches
    have no token and are marked in the token file (`present`). Off: such slides fail."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(0 <= self.min_tissue <= 1, "--min-tissue", self.min_tissue, "a fraction from 0 to 1")
        require(1 <= self.max_upsample < float("inf"), "--max-upsample", self.max_upsample, "a factor of at least 1")
