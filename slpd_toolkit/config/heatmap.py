"""Settings of `slpd heatmap`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import require_at_least


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """Turn stored scores into pictures and QuPath objects, from coordinates alone or on the slides' pixels."""

    scores: Path
    """scores.h5, a folder of `slpd mil-eval` that holds it, or a CSV with slide_id, x_l0, y_l0, size_l0, score."""

    out: Path
    """Folder for <slide>.png and <slide>.geojson."""

    model: str | None = None
    """Which model's scores, where the file holds several."""

    aggregator: str | None = None
    """Which aggregator's scores, where the file holds several."""

    slide: tuple[str, ...] = ()
    """Only this slide; may be repeated."""

    limit: int = 0
    """Only the first slides. 0: all."""

    manifest: Path | None = None
    """Cohort CSV; with it pictures show the slides' own pixels, and GeoJSON is relative to their bounds."""

    slides_root: Path | None = None
    """Folder that relative slide paths start from. Default: the manifest's folder."""

    format: Literal["both", "png", "geojson"] = "both"
    """`png`: pictures; `geojson`: objects for QuPath 0.4 or later; `both`."""

    crop: bool = True
    """GeoJSON for slides that QuPath crops to OpenSlide's bounds, as it does by default (MRXS, SCN, sparse slides).
    `--no-crop`: for images that were added to QuPath with `--no-crop`; coordinates of the whole slide."""

    scale: Literal["rank", "linear"] = "rank"
    """How scores become colours: by their rank within the slide, or evenly from its lowest to its highest score."""

    side_px: int = 1200
    """Longest side of a picture's slide, px."""

    jobs: int = 0
    """Processes that draw, a slide each. 0: one a core, fewer for few slides."""

    def __post_init__(self) -> None:
        """Check each value."""
        require_at_least(0, "limit", self.limit)
        require_at_least(0, "jobs", self.jobs)
        require_at_least(100, "side_px", self.side_px)
