"""Settings of the SLPD objective and of the slide prototypes that it learns from."""

from dataclasses import dataclass
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least

ViewRule = Literal["paper", "published"]
Correspondence = Literal["matched", "nearest"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights and constants of the objective; the defaults are SLPD's (https://arxiv.org/abs/2307.10696)."""

    dino_weight: float = 1.0
    """Weight of the self-distillation loss. 0 switches it off."""

    intra_weight: float = 1.0
    """Weight of the intra-slide loss: regions to the prototype of their own cluster. 0 switches it off."""

    inter_weight: float = 1.0
    """Weight of the inter-slide loss: regions to the corresponding prototype of similar slides. 0 switches it off."""

    view_rule: ViewRule = "paper"
    """Student views compared with prototypes: all (paper), or all but view j for target j (published code)."""

    student_temp: float = 0.1
    """Temperature of the student's softmax."""

    teacher_temp: float = 0.04
    """Temperature of the teacher's softmax."""

    centre_momentum: float = 0.9
    """Momentum of the centres of the teacher's logits."""

    def __post_init__(self) -> None:
        """Check each value and their relations."""
        for name in ("dino_weight", "intra_weight", "inter_weight"):
            require_at_least(0, name, getattr(self, name))
        require(
            self.dino_weight + self.intra_weight + self.inter_weight > 0,
            "--dino-weight, --intra-weight, --inter-weight",
            "0, 0, 0",
            "at least one above 0",
        )
        for name in ("student_temp", "teacher_temp"):
            require(0 < getattr(self, name) < float("inf"), flag(name), getattr(self, name), "above 0")
        require(
            0 <= self.centre_momentum < 1,
            "--centre-momentum",
            self.centre_momentum,
            "0 to below 1",
            "At 1 the centre would stay zero and the targets would collapse. SLPD uses 0.9.",
        )

    @property
    def uses_prototypes(self) -> bool:
        """Whether a term that learns from slide prototypes is on."""
        return self.intra_weight + self.inter_weight > 0

    @property
    def works_without_prototypes(self) -> bool:
        """Whether a term that learns without slide prototypes is on."""
        return self.dino_weight > 0


@dataclass(frozen=True, kw_only=True)
class SlidePrototypesConfig:
    """How slide prototypes are made; the defaults are those of SLPD on TCGA-NSCLC."""

    cluster_features: Literal["bottleneck", "backbone"] = "bottleneck"
    """Features that are clustered: the head's bottleneck (paper), or the backbone's region embedding."""

    clusters: int = 4
    """Number of prototypes per slide (K)."""

    min_regions: int = 32
    """Slides with fewer regions get no prototypes and are never used as neighbours: self-distillation only."""

    neighbours: int = 1
    """Number of similar slides that each slide learns from (r)."""

    correspondence: Correspondence = "matched"
    """Prototype of a similar slide that corresponds: the optimally matched one (paper), or the nearest (published
    code)."""

    prototype_epoch: int = 21
    """First epoch, counted from 0, that has prototypes; they are rebuilt at the start of this and every later epoch."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("clusters", "min_regions", "neighbours"):
            require_at_least(1, name, getattr(self, name))
        require_at_least(0, "prototype_epoch", self.prototype_epoch)

    @property
    def least_regions(self) -> int:
        """Number of regions that a slide needs to get prototypes: no slide has more prototypes than regions."""
        return max(self.min_regions, self.clusters)
