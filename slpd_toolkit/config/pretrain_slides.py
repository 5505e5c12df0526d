"""Settings of `slpd pretrain-slides`."""

from dataclasses import dataclass, field
from pathlib import Path

from slpd_toolkit.config.checks import require
from slpd_toolkit.config.slide_vit import (
    SlideHeadConfig,
    SlideObjectiveConfig,
    SlideOptimisationConfig,
    SlideRunningConfig,
    SlideViewsConfig,
    SlideViTConfig,
)
from slpd_toolkit.config.training import TrainingSlidesConfig, check_length


@dataclass(frozen=True, kw_only=True)
class PretrainSlidesConfig:
    """Train a slide ViT without labels: a transformer over the region embeddings of a slide and their positions.

    Tested on planted cohorts only, not on real slides: compare the result with descriptors of the same regions
    (`slpd mil-eval`).

    slpd pretrain-slides runs/nsclc --cache cache/ --out runs/slides --recipe stages/pretrain-slides/small-cohort.toml
    """

    model: str
    """Model that embeds the regions: run folder of `slpd pretrain`, region_vit.pt, HIPT checkpoint or `mean-tokens`. It
    is stored with the slide ViT and is not trained."""

    cache: Path
    """Token cache of `slpd embed` or `slpd import`."""

    out: Path
    """Run folder: slide_vit.pt, last.pt, metrics.csv, recipe.toml, slides.csv, curves.svg, and with
    --slide-weight above 0 scores.h5 (attention, for `slpd heatmap`). An interrupted run in this folder is resumed."""

    # -- Slides --
    slides: TrainingSlidesConfig = field(default_factory=TrainingSlidesConfig)

    # -- Length and batches --
    epochs: int = 100
    """Number of passes over all slides."""

    batch_size: int = 16
    """Batch size per process, in slides. The learning rate scales with the batch size over all processes."""

    accumulate: int = 1
    """Number of parts that each step is split into to save memory; a divisor of the batch size."""

    # -- Objective --
    objective: SlideObjectiveConfig = field(default_factory=SlideObjectiveConfig)

    # -- Views --
    views: SlideViewsConfig = field(default_factory=SlideViewsConfig)

    # -- Slide ViT --
    slide_vit: SlideViTConfig = field(default_factory=SlideViTConfig)

    # -- DINO head --
    dino_head: SlideHeadConfig = field(default_factory=SlideHeadConfig)

    # -- Optimization --
    optimisation: SlideOptimisationConfig = field(default_factory=SlideOptimisationConfig)

    # -- Running --
    running: SlideRunningConfig = field(default_factory=SlideRunningConfig)

    def __post_init__(self) -> None:
        """Check the values that the parts do not check, and their combinations, before any work starts."""
        check_length(self)
        warmup, views = self.optimisation.warmup_epochs, self.views
        require(warmup <= self.epochs, "--warmup-epochs", warmup, f"at most --epochs ({self.epochs})")
        require(
            self.objective.slide_weight == 0 or views.global_views + views.local_views > 1,
            "--global-views + --local-views",
            views.global_views + views.local_views,
            "at least 2 if --slide-weight is above 0",
        )
        require(
            self.objective.region_weight + self.objective.content_weight == 0 or views.hidden > 0,
            "--hidden",
            views.hidden,
            "above 0 if --content-weight or --region-weight is above 0",
        )
