"""Settings of `slpd inspect`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Describe the contents of a token file or a token cache, in words and units."""

    path: Path
    """Token file (.h5) or cache folder."""
