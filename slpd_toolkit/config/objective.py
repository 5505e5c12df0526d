"""Settings of the SLPD objective and of slide prototypes."""

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
    """Weight of each term by name; default weights are used for missing names. 0 disables a term."""

    view_rule: ViewRule = "paper"
    """Student views compared with prototypes: all (`paper`), or all except view j for target j (`published`, as in the
    published code)."""

    student_temp: float = 0.1
    """Temperature of the student's softmax."""

    teacher_temp: float = 0.04
    """Temperature of the teacher's softmax."""

    centre_momentum: float = 0.9
    """Momentum of the centers of the teacher's logits."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
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
            "At 1, the center would stay zero and the targets would collapse. SLPD uses 0.9.",
        )

    @property
    def uses_prototypes(self) -> bool:
        """Whether a term that uses slide prototypes is enabled."""
        return any(self.weights[term.name] > 0 for term in objective_terms() if term.needs_prototypes)

    @property
    def uses_masks(self) -> bool:
        """Whether a term that predicts masked tokens is enabled."""
        return any(self.weights[term.name] > 0 for term in objective_terms() if term.needs_masks)

    @property
    def works_without_prototypes(self) -> bool:
        """Whether a term that trains without slide prototypes is enabled."""
        return any(self.weights[term.name] > 0 for term in objective_terms() if term.trains_alone)


@dataclass(frozen=True, kw_only=True)
class SlidePrototypesConfig:
    """Computation of slide prototypes; the defaults are those of SLPD on TCGA-NSCLC."""

    cluster_features: Literal["bottleneck", "backbone"] = "bottleneck"
    """Features to cluster: the bottleneck of the DINO head (paper), or the region embedding (`backbone`)."""

    clusters: int = 4
    """Number of prototypes per slide (K)."""

    min_regions: int = 32
    """Minimum number of regions for a slide to get prototypes. Slides with fewer are never used as neighbors and only
    contribute to self-distillation."""

    neighbours: int = 1
    """Number of similar slides used as neighbors of each slide (r)."""

    correspondence: Correspondence = "matched"
    """Corresponding prototype of a similar slide: optimally `matched` (paper), or `nearest` (published code)."""

    prototype_epoch: int = 21
    """First epoch with prototypes, counting from 0; they are rebuilt at the start of this and every later epoch."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("clusters", "min_regions", "neighbours"):
            require_at_least(1, name, getattr(self, name))
        require_at_least(0, "prototype_epoch", self.prototype_epoch)

    @property
    def least_regions(self) -> int:
        """Minimum number of regions for a slide to get prototypes: at least as many as prototypes."""
        return max(self.min_regions, self.clusters)
