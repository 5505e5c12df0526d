"""The three terms of the SLPD objective: which targets, which views they face, which centre, which regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets

TermName = Literal["dino", "intra", "inter"]
Variant = Literal["paper", "published"]


@dataclass(frozen=True, slots=True)
class SlpdConfig:
    """Weights and constants of the objective; the defaults are SLPD's (https://arxiv.org/abs/2307.10696)."""

    weight_dino: float = 1.0
    """Weight of self-distillation; 0 switches it off."""
    weight_intra: float = 1.0
    """Weight of intra-slide distillation; 0 switches it off."""
    weight_inter: float = 1.0
    """Weight of inter-slide distillation; 0 switches it off."""
    student_temp: float = 0.1
    """Temperature of the student's views."""
    teacher_temp: float = 0.04
    """Temperature of the targets."""
    centre_momentum: float = 0.9
    """Share of itself that a centre keeps at each update."""
    variant: Variant = "paper"
    """Views that a prototype faces: "paper" all; "published" all but view 0 (own prototype) or view j (neighbour j)."""

    def __post_init__(self) -> None:
        weights = (self.weight_dino, self.weight_intra, self.weight_inter)
        if min(weights) < 0 or max(weights) == 0:
            raise UsageError(
                f"weights of the objective must not be negative, and one must be positive, got dino {weights[0]}, "
                f"intra {weights[1]}, inter {weights[2]}.",
                hint="Set weight_dino = 1 for plain self-distillation.",
            )
        if min(self.student_temp, self.teacher_temp) <= 0:
            raise UsageError(
                f"temperatures must be positive, got student {self.student_temp}, teacher {self.teacher_temp}.",
                hint="SLPD's are 0.1 and 0.04.",
            )
        if not 0 <= self.centre_momentum < 1:
            raise UsageError(
                f"centre_momentum must lie in [0, 1), got {self.centre_momentum}.",
                hint="SLPD's is 0.9; at 1 the centre would stay zero and the targets collapse.",
            )


class Term(NamedTuple):
    """One term: its loss is the sum over pairs of `pairs` times the mean of H over the valid regions."""

    name: TermName
    weight: float
    targets: Tensor
    """(q, B, d) unit vectors."""
    pairs: Tensor
    """(q, V) weight of every target x view pair; they sum to 1."""
    valid: Tensor
    """(B,) bool: regions that have these targets."""


def active_terms(config: SlpdConfig, teacher: Tensor, prototypes: PrototypeTargets | None, views: int) -> list[Term]:
    """Terms that are switched on and have targets, in the order in which they move their centres.

    Args:
        config: Weights and variant.
        teacher: (Vg, B, d) the teacher's view of the global crops.
        prototypes: Targets of the prototype terms, None before the first clustering.
        views: Number V of student views; the first Vg are those of the teacher.

    Raises:
        ValueError: No term is left.
    """
    regions, device = teacher.shape[1], teacher.device
    everywhere = torch.ones(regions, dtype=torch.bool, device=device)
    terms = [Term("dino", config.weight_dino, teacher, _pairs(len(teacher), views, device, skip_same=True), everywhere)]
    if prototypes is not None:
        skip = config.variant == "published"  # it reuses the "same view" skip of self-distillation
        own, near = prototypes.own.unsqueeze(0), prototypes.neighbours
        valid = prototypes.valid
        terms += [
            Term("intra", config.weight_intra, own, _pairs(1, views, device, skip_same=skip), valid),
            Term("inter", config.weight_inter, near, _pairs(len(near), views, device, skip_same=skip), valid),
        ]
    active = [term for term in terms if term.weight > 0]
    if not active:
        raise ValueError("no term has targets: switch self-distillation on until the prototypes are built")
    return active


def _pairs(targets: int, views: int, device: torch.device, *, skip_same: bool) -> Tensor:
    """Equal weights over the pairs that count; `skip_same` leaves out view q of target q."""
    counts = torch.ones(targets, views, device=device)
    if skip_same:
        counts -= torch.eye(targets, views, device=device)
    return counts / counts.sum()
