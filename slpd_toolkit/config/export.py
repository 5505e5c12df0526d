"""Settings of `slpd export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import require, require_at_least
from slpd_toolkit.core.precision import Precision

_OF_EMBEDDINGS = ("trident", "anndata", "parquet")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a region ViT's weights, a cache's tokens, or embeddings of regions and slides as other tools read them.

    slpd export runs/nsclc --out vit4k_xs_nsclc.pth

    slpd export cache/ --to anndata --model runs/nsclc --out regions.h5ad
    """

    source: Path
    """Weights: region_vit.pt, or the run folder that holds it. Tokens, embeddings: a token cache, or a file of it."""

    out: Path
    """File to write; for tokens as `hipt`, and for `trident`, a folder."""

    to: Literal["hipt", "safetensors", "trident", "anndata", "parquet"] = "hipt"
    """Of weights: `hipt` (a .pth that HIPT's loader takes, as vit4k_xs_dino.pth), `safetensors` (weights with their
    config). Of a cache: `hipt` (tokens, .pt), `trident` (tokens of patches, or with --model embeddings of regions,
    .h5), `anndata` (embeddings, .h5ad), `parquet` (embeddings)."""

    model: str = ""
    """What embeds a cache's regions: region_vit.pt, the run folder that holds it, or `mean-tokens`."""

    per: Literal["auto", "slide", "region"] = "auto"
    """What is a file of tokens (`hipt`) or a row of embeddings (`anndata`, `parquet`); a slide's embedding is the mean
    of its regions'. `auto`: regions in `anndata`, else slides."""

    precision: Precision = "auto"
    """Arithmetic of the model. `auto`: bf16 where the device computes it natively, else fp32."""

    device: str = "auto"
    """Where the model runs: `auto` (GPU when there is one), `cpu`, `cuda`, `mps`."""

    workers: int = 2
    """Threads that read tokens ahead of the model."""

    def __post_init__(self) -> None:
        """Check how the values relate."""
        require_at_least(1, "workers", self.workers)
        require(
            bool(self.model) or self.to not in {"anndata", "parquet"},
            "--model",
            "nothing",
            f"a region ViT or mean-tokens, because --to {self.to} writes embeddings",
            "Give the run folder of `slpd pretrain`: --model runs/nsclc.",
        )
        require(
            not self.model or self.to in _OF_EMBEDDINGS,
            "--model",
            self.model,
            f"nothing, because --to {self.to} writes no embeddings",
            f"Embeddings are written with --to {', '.join(_OF_EMBEDDINGS)}.",
        )
