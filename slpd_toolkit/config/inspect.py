"""Settings of `slpd inspect`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Summarize the contents of a token file or a token cache."""

    path: Path
    """Token file (.h5) or cache folder."""
