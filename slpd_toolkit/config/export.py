"""Settings of `slpd export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained region ViT as other tools read it.

    slpd export runs/nsclc --out vit4k_xs_nsclc.pth
    """

    source: Path
    """region_vit.pt, or the run folder that holds it."""

    out: Path
    """File to write."""

    to: Literal["hipt", "safetensors"] = "hipt"
    """`hipt`: a .pth that HIPT's loader takes (as vit4k_xs_dino.pth); `safetensors`: weights with their config."""
