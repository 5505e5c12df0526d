"""Settings of `slpd export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import require, require_at_least, require_manifest
from slpd_toolkit.core.precision import Precision

_HUB_FOLDER = Path("hub-folder")
_OF_EMBEDDINGS = ("trident", "anndata", "parquet")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export region ViT weights, tokens, or region and slide embeddings in the formats of other tools.

    slpd export runs/nsclc --out vit4k_xs_nsclc.pth

    slpd export cache/ --to anndata --model runs/nsclc --out regions.h5ad

    slpd export eval/nsclc --to hub-folder
    """

    source: Path
    """For weights: a region_vit.pt, or its run folder. For tokens and embeddings: a token cache, or one of its
    files."""

    out: Path = _HUB_FOLDER
    """File to write; a folder for `trident`, `geojson`, `hub-folder`, and for tokens in `hipt` format. Required, except
    for `hub-folder`, whose default is hub-folder/."""

    to: Literal["hipt", "safetensors", "trident", "anndata", "parquet", "geojson", "hub-folder"] = "hipt"
    """For weights: `hipt` (.pth for HIPT's loader, like vit4k_xs_dino.pth) or `safetensors` (weights and config). For a
    cache: `hipt` (tokens, .pt), `trident` (patch tokens, or with --model region embeddings, .h5), `anndata`
    (embeddings, .h5ad), `parquet` (embeddings) or `geojson` (outlines of tissue for QuPath, one file per slide). For an
    evaluation: `hub-folder` (its heads and model card, ready to upload to a model hub; `slpd predict` reads
    it)."""

    model: str = ""
    """Model that embeds the regions of a cache: region_vit.pt, its run folder, or `mean-tokens`."""

    per: Literal["auto", "slide", "region"] = "auto"
    """One token file (`hipt`) or one row of embeddings (`anndata`, `parquet`) per slide or per region. A slide's
    embedding is the mean of its region embeddings. `auto`: region for `anndata`, otherwise slide."""

    manifest: Path | None = None
    """Cohort CSV. With it, only the slides that it lists are exported."""

    where: tuple[str, ...] = ()
    """Use only manifest rows that meet this condition: `split=train`, `site=A2,BH` (any of these) or
    `split!=test`. Repeat the option to require several conditions."""

    crop: bool = True
    """Write GeoJSON relative to OpenSlide's bounds, to which QuPath crops by default. `--no-crop`: whole-slide
    coordinates."""

    precision: Precision = "auto"
    """Precision of the model. `auto`: bf16 if the device supports it natively, otherwise fp32."""

    device: str = "auto"
    """Device of the model: `auto` (GPU if available), `cpu`, `cuda`, `mps`."""

    workers: int = 2
    """Number of threads that read tokens ahead of the model."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        require_manifest(self.where, self.manifest)
        require(self.out != _HUB_FOLDER or self.to == "hub-folder", "--out", "nothing", "the file or folder to write")
        require_at_least(1, "workers", self.workers)
        require(
            bool(self.model) or self.to not in {"anndata", "parquet"},
            "--model",
            "nothing",
            f"a region ViT or mean-tokens, because --to {self.to} writes embeddings",
            "Pass the run folder of `slpd pretrain`: --model runs/nsclc.",
        )
        require(
            not self.model or self.to in _OF_EMBEDDINGS,
            "--model",
            self.model,
            f"no model, because --to {self.to} does not write embeddings",
            f"To write embeddings, use --to {', '.join(_OF_EMBEDDINGS)}.",
        )
