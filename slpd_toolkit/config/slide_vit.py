"""Settings of the slide ViT and of its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least
from slpd_toolkit.config.optimisation import OptimisationConfig
from slpd_toolkit.config.region_vit import DinoHeadConfig
from slpd_toolkit.config.training import RunningConfig
from slpd_toolkit.core.precision import Precision


@dataclass(frozen=True, kw_only=True)
class SlideViTConfig:
    """Architecture of a slide ViT: a small transformer over the regions of a slide, with positions as ALiBi."""

    embed_dim: int = 128
    """Dimension of regions in the slide ViT."""

    depth: int = 3
    """Number of transformer blocks."""

    heads: int = 4
    """Number of attention heads per block."""

    mlp_ratio: float = 2.0
    """Ratio of the hidden width of MLPs to --embed-dim."""

    steepest_slope: float = 2.0
    """Slope of the first head: attention scores fall by this much per region of distance. Each further head has half
    the slope of the one before; the last has 0 and attends regardless of distance."""

    centering: Literal["none", "slide"] = "slide"
    """Subtract the mean region of the slide from its regions (`slide`), which removes stain, scanner and overall
    composition, so that the network describes how regions differ and how they are arranged. Descriptors of the
    region embeddings still contain the composition."""

    drop_path: float = 0.0
    """Stochastic-depth rate of the student's last block, decreasing linearly to 0 at the first."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        for name in ("embed_dim", "depth", "heads"):
            require_at_least(1, name, getattr(self, name))
        for name in ("mlp_ratio", "steepest_slope"):
            require_at_least(0, name, getattr(self, name))
        require(0 <= self.drop_path < 1, "--drop-path", self.drop_path, "0 to below 1")
        require(self.embed_dim % self.heads == 0, "--heads", self.heads, f"a divisor of --embed-dim ({self.embed_dim})")


@dataclass(frozen=True, kw_only=True)
class SlideHeadConfig(DinoHeadConfig):
    """Architecture of the DINO head of the slide ViT: smaller than DINO's, because there are few slides."""

    hidden_dim: int = 256
    """Width of the two hidden layers of the DINO head."""

    bottleneck_dim: int = 64
    """Width of the DINO head's L2-normalized bottleneck."""

    out_dim: int = 1024
    """Number of outputs of the DINO head's last layer."""


@dataclass(frozen=True, kw_only=True)
class SlideOptimisationConfig(OptimisationConfig):
    """AdamW and its schedules for slide ViTs: faster steps and a teacher that follows sooner than in DINO."""

    lr: float = 0.05
    """Peak learning rate for 256 slides per step; scaled linearly with the total batch size."""

    warmup_epochs: int = 2
    """Number of epochs of learning-rate warm-up from 0."""

    weight_decay_end: float = 0.04
    """Final weight decay of the cosine schedule."""

    teacher_momentum: float = 0.99
    """Initial momentum of the teacher's moving average; increases to 1 on a cosine schedule."""


@dataclass(frozen=True, kw_only=True)
class SlideRunningConfig(RunningConfig):
    """How a run is executed and recorded, for slide ViTs."""

    precision: Precision = "auto"
    """Precision of the region model and of training. `auto`: bf16 if the device supports it natively, otherwise fp32.
    fp16 (with loss scaling) is for GPUs only."""

    seed: int = 0
    """Random seed of weights, data order, views and stochastic depth."""


@dataclass(frozen=True, kw_only=True)
class SlideObjectiveConfig:
    """Weights and constants of the objective: hidden regions are predicted from the others of their slide."""

    content_weight: float = 1.0
    """Weight of the prediction of hidden regions' vectors. 0 disables it."""

    slide_weight: float = 0.0
    """Weight of self-distillation between two sets of regions of a slide, which trains the CLS token. 0 disables it."""

    region_weight: float = 0.0
    """Weight of the prediction of the teacher's output for hidden regions. 0 disables it."""

    student_temp: float = 0.1
    """Temperature of the student's softmax."""

    teacher_temp: float = 0.06
    """Temperature of the teacher's softmax."""

    centre_momentum: float = 0.9
    """Momentum of the centers of the teacher's logits."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        for name in ("content_weight", "slide_weight", "region_weight"):
            require_at_least(0, name, getattr(self, name))
        require(
            self.content_weight + self.slide_weight + self.region_weight > 0,
            "--content-weight, --slide-weight, --region-weight",
            "0, 0, 0",
            "at least one above 0",
        )
        for name in ("student_temp", "teacher_temp"):
            require(0 < getattr(self, name) < float("inf"), flag(name), getattr(self, name), "above 0")
        require(0 <= self.centre_momentum < 1, "--centre-momentum", self.centre_momentum, "0 to below 1")

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each term, by its name in metrics.csv."""
        return {"content": self.content_weight, "slide": self.slide_weight, "region": self.region_weight}

    @property
    def distills(self) -> bool:
        """Whether a term has the teacher's output as its target."""
        return self.slide_weight > 0 or self.region_weight > 0


@dataclass(frozen=True, kw_only=True)
class SlideViewsConfig:
    """Sets of regions of a slide that are compared in training."""

    global_views: int = 2
    """Number of large views per slide, used by student and teacher."""

    local_views: int = 2
    """Number of small views per slide, used by the student only."""

    global_share: float = 0.6
    """Minimum fraction of the slide's regions in a large view; the maximum is 1. A view consists of the regions
    nearest to a random region."""

    local_share: float = 0.2
    """Minimum fraction of the slide's regions in a small view; the maximum is --global-share."""

    most_regions: int = 256
    """Maximum number of regions in a view."""

    hidden: float = 0.3
    """Fraction of the regions of each large view that the student does not see and predicts."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        require_at_least(1, "global_views", self.global_views)
        require_at_least(0, "local_views", self.local_views)
        require_at_least(2, "most_regions", self.most_regions)
        require(0 < self.global_share <= 1, "--global-share", self.global_share, "above 0 to 1")
        require(
            0 < self.local_share <= self.global_share,
            "--local-share",
            self.local_share,
            f"above 0 to --global-share ({self.global_share})",
        )
        require(0 <= self.hidden < 1, "--hidden", self.hidden, "0 to below 1")
