"""Settings of `slpd pretrain-slides`."""

from dataclasses import dataclass, field
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least, require_manifest
from slpd_toolkit.config.slide_vit import (
    SlideHeadConfig,
    SlideObjectiveConfig,
    SlideOptimisationConfig,
    SlideViewsConfig,
    SlideViTConfig,
)
from slpd_toolkit.core.precision import Precision


@dataclass(frozen=True, kw_only=True)
class PretrainSlidesConfig:
    """Train a slide ViT without labels: a transformer over the region embeddings of a slide and their positions.

    Experimental: on planted cohorts, training did not beat random weights reliably.

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
    manifest: Path | None = None
    """Cohort CSV. With it, only the slides that it lists are used for training."""

    where: tuple[str, ...] = ()
    """Use only manifest rows that meet this condition: `split=train`, `site=A2,BH` (any of these) or
    `split!=test`. Repeat the option to require several conditions."""

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
    precision: Precision = "auto"
    """Precision of the region model and of training. `auto`: bf16 if the device supports it natively, otherwise fp32.
    fp16 (with loss scaling) is for GPUs only."""

    device: str = "auto"
    """Device: `auto` (GPU if available), `cpu`, `cuda`, `mps`. Under torchrun, each process uses its own GPU."""

    workers: int = 2
    """Number of threads that draw views ahead of training."""

    seed: int = 0
    """Random seed of weights, data order, views and stochastic depth."""

    log_every: int = 20
    """Number of steps per row of metrics.csv."""

    save_every_min: float = 10.0
    """Minutes between checkpoints (last.pt) within an epoch; one is also written at the end of every epoch."""

    tensorboard: bool = False
    """Also write TensorBoard event files (requires the tensorboard extra)."""

    def __post_init__(self) -> None:
        """Check the values that the parts do not check, and their combinations, before any work starts."""
        for name in ("epochs", "batch_size", "accumulate", "workers", "log_every"):
            require_at_least(1, name, getattr(self, name))
        require_at_least(0, "save_every_min", self.save_every_min)
        require_manifest(self.where, self.manifest)
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")
        require(
            self.batch_size % self.accumulate == 0,
            "--accumulate",
            self.accumulate,
            f"a divisor of --batch-size ({self.batch_size})",
        )
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
