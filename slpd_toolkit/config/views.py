"""Settings of the views (crops and augmentation) of a region."""

from dataclasses import dataclass

from slpd_toolkit.config.checks import flag, require, require_at_least


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """Number, size and orientation of the crops of each region; the defaults are SLPD's."""

    global_crops: int = 2
    """Number of large views, used by student and teacher."""

    global_side: int = 14
    """Side of the large views, in tokens."""

    local_crops: int = 8
    """Number of small views, used by the student only."""

    local_side: int = 6
    """Side of the small views, in tokens."""

    flip_left_right: float = 0.5
    """Probability of flipping a view horizontally."""

    flip_up_down: float = 0.0
    """Probability of flipping a view vertically."""

    quarter_turns: float = 0.0
    """Probability of rotating a view by a random multiple of 90 degrees."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        for name in ("global_crops", "global_side", "local_side"):
            require_at_least(1, name, getattr(self, name))
        require_at_least(0, "local_crops", self.local_crops)
        for name in ("flip_left_right", "flip_up_down", "quarter_turns"):
            require(0 <= getattr(self, name) <= 1, flag(name), getattr(self, name), "0 to 1")
        require(
            self.global_crops + self.local_crops > 1,
            "--global-crops + --local-crops",
            self.global_crops + self.local_crops,
            "at least 2 views",
            "SLPD uses 2 global and 8 local crops.",
        )
        require(
            self.local_crops == 0 or self.local_side <= self.global_side,
            "--local-side",
            self.local_side,
            f"at most --global-side ({self.global_side})",
        )

    def sides(self) -> tuple[int, ...]:
        """Return the side of each of the V crops, global ones first."""
        return (self.global_side,) * self.global_crops + (self.local_side,) * self.local_crops


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Augmentation of the tokens of views after cropping; disabled by default, as in SLPD."""

    token_noise: float = 0.0
    """Gaussian noise added to each token, in standard deviations of each feature over the cohort."""

    token_offset: float = 0.0
    """Gaussian offset added to all tokens of a view, simulating a different stain; in units of --token-noise."""

    region_offset: float = 0.0
    """Multiple of the difference between two random regions' mean tokens that is added to all tokens of a view."""

    stain_views: int = 0
    """Number of stain views of the cache to use (`slpd embed --stain-views`). The views of a region are then drawn
    at random from its original stain and these. Prototypes use the original stain."""

    token_dropout: float = 0.0
    """Fraction of tokens hidden from the student, sampled per view."""

    block_mask: float = 0.0
    """Fraction of the area of each large view hidden from the student, as one rectangle."""

    masked_fraction: float = 0.3
    """Fraction of the tokens of each large view that the student predicts, if --masked-weight is above 0."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(0 < self.masked_fraction <= 1, "--masked-fraction", self.masked_fraction, "above 0, at most 1")
        for name in ("token_noise", "token_offset", "region_offset", "stain_views"):
            require_at_least(0, name, getattr(self, name))
        for name in ("token_dropout", "block_mask"):
            require(0 <= getattr(self, name) < 1, flag(name), getattr(self, name), "0 to below 1")

    @property
    def needs_statistics(self) -> bool:
        """Whether noise or offsets are enabled, which requires the standard deviations of the cohort's tokens."""
        return bool(self.token_noise or self.token_offset or self.region_offset)
