"""Settings of `slpd encoders`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """List the patch encoders: width, patch size, pooling, license, and what to download.

    slpd encoders uni2-h describes one; slpd encoders uni2-h --check FILE checks its weights file.
    """

    name: str = ""
    """Encoder to describe in full."""

    check: Path | None = None
    """Weights file to check: digest, names and shapes. Also prints the vector of a fixed test image, so that two
    sites can check that they run the same encoder. Without NAME: identify the encoder that the file belongs to."""
