"""Settings of `slpd encoders`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """List the patch encoders: width, patch size, pooling, licence, what to download.

    slpd encoders uni2-h describes one of them; with --check FILE it checks a weights file.
    """

    name: str = ""
    """One encoder, to describe it in full."""

    check: Path | None = None
    """Weights file: is it the right one? Checks digest, names and shapes, and prints the vector of a fixed picture, by
    which two sites can compare what they run."""

    def __post_init__(self) -> None:
        """Check how the settings relate."""
        require(bool(self.name) or self.check is None, "--check", self.check, "with the name of an encoder")
