"""Settings of the SLPD objective and of the slide prototypes that it learns from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least
from slpd_toolkit.config.settings import one_setting_per_entry
from slpd_toolkit.config.terms import TERMS, objective_terms, weight_settings

ViewRule = Literal["paper", "published"]
Correspondence = Literal["matched", "nearest"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights and constants of the objective; the defaults are SLPD's (https://arxiv.org/abs/2307.10696)."""

    weights: Mapping[str, float] = field(default_factory=dict, metadata=one_setting_per_entry(weight_settings))
    """Weight of each term by name; missing ones take their defaults. 0 switches a term off."""

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
        terms = objective_terms()
        for name in self.weights:
            TERMS.require(name.replace("_", "-"))
        weights = {term.name: float(self.weights.get(term.name, term.weight)) for term in terms}
        object.__setattr__(self, "weights", weights)
        for term in terms:
            require_at_least(0, term.setting, weights[term.name])
        require(
            any(weights.values()),
            ", ".join(term.flag for term in terms),
            ", ".join("0" for _ in terms),
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
        return any(self.weights[term.name] > 0 for term in objective_terms() if term.needs_prototypes)

    @property
    def works_without_prototypes(self) -> bool:
        """Whether a term that learns without slide prototypes is on."""
        return any(self.weights[term.name] > 0 for term in objective_terms() if not term.needs_prototypes)


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
