"""Settings of the views that a region is learned from."""

from dataclasses import dataclass

from slpd_toolkit.config.checks import flag, require, require_at_least


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """Number, size and orientation of the crops of each region; the defaults are SLPD's."""

    global_crops: int = 2
    """Number of large views, which student and teacher see."""

    global_side: int = 14
    """Side of the large views, in tokens."""

    local_crops: int = 8
    """Number of small views, which only the student sees."""

    local_side: int = 6
    """Side of the small views, in tokens."""

    flip_left_right: float = 0.5
    """Probability that a view is mirrored left to right."""

    flip_up_down: float = 0.0
    """Probability that a view is mirrored top to bottom."""

    quarter_turns: float = 0.0
    """Probability that a view is rotated by a random multiple of 90 degrees; slides have no "up". SLPD: 0."""

    def __post_init__(self) -> None:
        """Check each value and their relations."""
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
            "SLPD takes 2 global and 8 local crops.",
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
    """Changes to the tokens of views after cropping; the default, none, is SLPD's."""

    token_noise: float = 0.0
    """Gaussian noise on each token of each view, in standard deviations of each feature over the cohort. SLPD: 0."""

    token_offset: float = 0.0
    """Gaussian offset shared by all tokens of a view, like a different stain; in the unit of --token-noise. SLPD: 0."""

    region_offset: float = 0.0
    """Multiple of the difference between two random regions' mean tokens, added to all tokens of a view. SLPD: 0."""

    token_dropout: float = 0.0
    """Fraction of the tokens hidden from the student, drawn per view; the teacher sees all. SLPD: 0."""

    block_mask: float = 0.0
    """Fraction of the area of each large view hidden from the student, as one rectangle. SLPD: 0."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("token_noise", "token_offset", "region_offset"):
            require_at_least(0, name, getattr(self, name))
        for name in ("token_dropout", "block_mask"):
            require(0 <= getattr(self, name) < 1, flag(name), getattr(self, name), "0 to below 1")

    @property
    def needs_statistics(self) -> bool:
        """Whether noise or offsets are on, whose unit is the spread of the cohort's tokens."""
        return bool(self.token_noise or self.token_offset or self.region_offset)
