"""Settings of `slpd heatmap`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import require, require_at_least, require_cluster


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """Draw stored scores as images and as QuPath objects, with or without the pixels of the slides.

    slpd heatmap eval/nsclc --best --manifest cohort.csv --out heatmaps/
    """

    scores: Path
    """scores.h5, its `slpd mil-eval` folder, or a CSV with slide_id, x_l0, y_l0, size_l0, score."""

    out: Path
    """Folder for <slide>.png and <slide>.geojson."""

    model: str | None = None
    """Model whose scores to draw, if the file has several."""

    aggregator: str | None = None
    """Aggregator whose scores to draw, if the file has several."""

    best: bool = False
    """Draw the model and aggregator with the highest mean in the evaluation, among those that have scores."""

    slide: tuple[str, ...] = ()
    """Draw only this slide; repeat the option for several."""

    limit: int = 0
    """Draw only the first slides, up to this number. 0: all."""

    manifest: Path | None = None
    """Cohort CSV. With it, images show the pixels of the slides, and GeoJSON is relative to OpenSlide's bounds."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    format: Literal["both", "png", "geojson"] = "both"
    """`png`: images; `geojson`: objects for QuPath 0.4 or later; `both`."""

    crop: bool = True
    """Write GeoJSON relative to OpenSlide's bounds, to which QuPath crops by default (MRXS, SCN, sparse slides).
    `--no-crop`: whole-slide coordinates, for images that were added to QuPath with `--no-crop`."""

    scale: Literal["rank", "linear"] = "rank"
    """Color scale: `rank` of the score within the slide, or `linear` from the slide's lowest to its highest score."""

    side_px: int = 1200
    """Longest side of the drawn slide, in px."""

    cluster: str = ""
    """Ray cluster that draws the slides instead of local processes (--jobs): `auto` (the cluster that this machine
    belongs to) or `ray://HOST:10001` (requires the ray extra)."""

    jobs: int = 0
    """Number of processes, each drawing one slide at a time. 0: one per core, fewer for few slides."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(
            not (self.best and (self.model or self.aggregator)),
            "--best with --model or --aggregator",
            "both",
            "only one of them",
        )
        require_at_least(0, "limit", self.limit)
        require_at_least(0, "jobs", self.jobs)
        require_cluster(self.cluster)
        require_at_least(100, "side_px", self.side_px)
